# Everything runs in a virtual environment that `make setup` builds from a lock.
# Variables: PYTHON (the interpreter to build with), VENV, ARGS (passed to a script),
# TORCH (the torch that parity tests are run against).

VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
LOCKS = $(wildcard third_party/requirements-py*.lock)
UV ?= uv
# The newest torch brings the CUDA libraries along; name a CPU build where it matters.
TORCH ?= torch==2.13.0

# A file's tests share what they set up, and the order is that of the folders.
WORKERS = -n 2 --dist=loadfile --no-loadscope-reorder

# The newest interpreter that has a lock comes first; a pyenv shim for a version that
# is not switched on exists on PATH but does not run, so each one is tried.
PYTHON ?= $(shell for python in python3.12 python3.11 python3.14 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

.PHONY: setup miniature recipe test test-slow parity lint house lock clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCKS)
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python >= 3.11 on PATH: install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) does not run or is older than Python 3.11" >&2; exit 1; }
	@[ -x $(BIN)/pip ] || "$(PYTHON)" -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian and Ubuntu: python3-venv)" >&2; \
		exit 1; }
	@version=$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])'); \
	lock=third_party/requirements-py$$version.lock; \
	pip="$(BIN)/python -m pip --disable-pip-version-check install --quiet"; \
	if [ -f "$$lock" ] && [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		echo "Installing $$lock into $(VENV)"; \
		$$pip --require-hashes -r "$$lock" && $$pip --no-deps --no-build-isolation -e .; \
	else \
		echo "No lock for this platform: installing the newest versions into $(VENV)"; \
		$$pip -e '.[dev,hf,data,tensorboard,serve]'; \
	fi
	@touch $@

miniature: setup  ## the whole recipe on the embedded toy world
	$(BIN)/python -m experiments.miniature --workdir=runs/miniature $(ARGS)

recipe: setup  ## the whole recipe on your data: make recipe DATA=folder
	@[ -n "$(DATA)" ] || { echo "Name the data: make recipe DATA=folder" >&2; exit 1; }
	$(BIN)/python -m experiments.recipe --data="$(DATA)" --workdir=runs/recipe $(ARGS)

test: setup
	$(BIN)/python -m pytest $(WORKERS) -q $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest $(WORKERS) -q -m slow $(ARGS)

parity: setup  ## against what others wrote; TORCH names the torch that pip installs
	$(BIN)/python -c 'import torch, transformers, lm_eval, accelerate, trl, peft' 2>/dev/null || \
		$(BIN)/python -m pip --disable-pip-version-check install --quiet $(TORCH) \
		'transformers>=5.2' 'lm-eval[api]>=0.4.13' accelerate 'trl>=1.16' 'peft>=0.19'
	$(BIN)/python -m pytest $(WORKERS) -q tests/models/hugging_face_test.py tests/interop/auto_tokenizer_test.py tests/interop/chat_parity_test.py tests/interop/peft_test.py tests/interop/classifier_test.py tests/interop/transformers_config_test.py tests/inference/engine/transformers_test.py tests/losses/trl_losses_test.py tests/training/trl_test.py tests/evals/harness_test.py $(ARGS)

house: setup
	$(BIN)/python -m pytest -q tests/house

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/house

lock:  ## needs uv
	for version in 3.11 3.12; do \
		$(UV) pip compile pyproject.toml --extra dev --extra hf --extra data --extra tensorboard --extra serve --generate-hashes --no-header --quiet \
			--python-version $$version --python-platform x86_64-manylinux_2_28 $(ARGS) \
			-o third_party/requirements-py$$(echo $$version | tr -d .).lock || exit 1; \
	done
	$(MAKE) setup
	$(BIN)/python third_party/licences.py

clean:
	rm -rf .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
