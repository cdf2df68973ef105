"""The harness finds the same numbers of our model, our server and transformers."""

import json
import math

import pytest

from nemojax.interop import huggingface, loading
from tests.inference.server import serving_process

lm_eval = pytest.importorskip("lm_eval")
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager
harness = pytest.importorskip("nemojax.evals.harness")

QUESTIONS = [
    {"question": f"{word} teaches {n} +", "choices": ["text", " 2\n", "= texts", "G"]}
    for word in ("the teacher", "three", "Grüße", "one ")
    for n in range(1, 6)
]
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
TASKS = {
    "choice": """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 1
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "answer": """
task: answer
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " 2"
generation_kwargs: {until: ["e", "\\n\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "texts": """
task: texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} the teacher teaches three texts, 1 + 1 = 2"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a model that writes whole characters."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    return serving_process.write_model(path, plain=True)


@pytest.fixture(scope="module")
def server(checkpoint):
    with serving_process.serving(checkpoint) as (address, _):
        yield address


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The manager of three tasks whose data are files."""
    path = tmp_path_factory.mktemp("tasks")
    rows = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    (path / "rows.jsonl").write_text(rows)
    for name, text in TASKS.items():
        data = DATA.format(data=path / "rows.jsonl")
        (path / f"{name}.yaml").write_text(text + data)
    return TaskManager(include_path=str(path), include_defaults=False)


@pytest.fixture(scope="module")
def evaluate(tasks):
    """(model, arguments, tasks) -> numbers by task, and what was answered."""
    harness.register()

    def run(model, arguments, names=tuple(TASKS), **how):
        found = lm_eval.simple_evaluate(
            model=model,
            model_args=arguments,
            tasks=list(names),
            task_manager=tasks,
            bootstrap_iters=0,
            log_samples=True,
            **how,
        )
        samples = {
            name: [sample["filtered_resps"] for sample in found["samples"][name]]
            for name in names
        }
        return found["results"], samples

    return run


@pytest.fixture(scope="module")
def ours(evaluate, checkpoint):
    return evaluate("nemojax", f"checkpoint={checkpoint},max_length=128", batch_size=4)


def assert_same(found, expected, names=tuple(TASKS)):
    results, samples = found
    for name in names:
        for key, value in expected[0][name].items():
            if isinstance(value, float):
                assert results[name][key] == pytest.approx(value, rel=1e-4), (name, key)
        for mine, theirs in zip(samples[name], expected[1][name], strict=True):
            if name == "answer":
                assert mine == theirs
            elif name == "choice":
                for (value, greedy), (other, as_greedy) in zip(
                    mine, theirs, strict=True
                ):
                    assert value == pytest.approx(other, rel=1e-4)
                    assert greedy == as_greedy


def test_the_numbers_say_something(ours):
    results, samples = ours
    assert math.log2(336) / 4 < results["texts"]["bits_per_byte,none"]
    answers = {answer for (answer,) in samples["answer"]}
    assert len(answers) > 3 and not any("e" in answer for answer in answers)


def test_the_server_gives_the_same(evaluate, ours, server):
    arguments = f"model=tiny,base_url={server}/v1/completions,max_length=128"
    for tokens in (True, False):
        names = tuple(TASKS) if tokens else ("answer",)
        how = "" if tokens else ",tokenized_requests=False,tokenizer_backend=None"
        found = evaluate("local-completions", arguments + how, names)
        assert_same(found, ours, names)


def test_chats_are_the_same(evaluate, checkpoint, server):
    ours = evaluate(
        "nemojax",
        f"checkpoint={checkpoint},max_length=128",
        ("answer",),
        apply_chat_template=True,
    )
    found = evaluate(
        "local-chat-completions",
        f"model=tiny,base_url={server}/v1/chat/completions",
        ("answer",),
        apply_chat_template=True,
    )
    assert_same(found, ours, ("answer",))


def test_transformers_gives_the_same(evaluate, ours, checkpoint, tmp_path):
    pytest.importorskip("transformers")
    model = loading.load(checkpoint)
    huggingface.save(
        tmp_path / "tiny",
        model.config,
        model.params,
        model.tokenizer,
        vocab_size=model.config.vocab_size,
    )
    found = evaluate(
        "hf",
        f"pretrained={tmp_path / 'tiny'},dtype=float32,max_length=128",
        batch_size=4,
        device="cpu",
    )
    assert_same(found, ours)
    again = evaluate("nemojax", f"checkpoint={tmp_path / 'tiny'},max_length=128")
    assert_same(again, ours)
