"""What a recipe writes can be sampled, served, scored, converted, trained further."""

import functools
import json

import jax
import numpy as np
import pytest

from nemojax.data.records import Conversation
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import file_scoring
from nemojax.inference.scoring.file_scoring import InputFiles
from nemojax.inference.scoring.scorer import LOG_PROBS, REWARDS, Scorer, ScorerConfig
from nemojax.inference.text import generation
from nemojax.interop import find, huggingface, loading
from nemojax.models import forward
from nemojax.parallel import fingerprint
from tests.inference.scoring.scored import read_parts
from tests.interop.tiny import assert_same
from tests.recipe.align import program, toy

QUESTION = "What is 3 + 4?"
LENGTH, NEW_TOKENS = 96, 8


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, tokens):
    return forward.logits(config, params, tokens)


class Usable:
    """Tests of a finished run, whose folder is the fixture `run` of the module."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model(run):
        """The model that the folder means."""
        return loading.load(run, dtype="float32")

    @pytest.fixture(scope="class")
    @staticmethod
    def reply(model):
        """The likeliest answer to the question."""
        sampling = Sampling(temperature=0.0, max_tokens=NEW_TOKENS)
        [found] = generation.generate(model, [Conversation.of(QUESTION)], sampling)
        return found

    def test_the_folder_of_a_run_means_the_model_of_its_last_policy(self, run, model):
        report = json.loads((run / "report.json").read_text())
        last = max(path.name for path in run.glob("rpo_?"))
        assert find.find_model(run) == run / last / "model"
        result = json.loads((run / last / "result.json").read_text())["result"]
        assert (
            fingerprint.parameters_sha256(model.params) == result["parameters_sha256"]
        )
        assert report["model"] == f"{last}/model"

    def test_it_answers_as_its_logits_say(self, model, reply):
        """Token by token, the likeliest that follows."""
        tokens = model.template.encode_prompt(
            model.tokenizer, Conversation.of(QUESTION)
        )
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(tokens) + len(reply.tokens)] = [*tokens, *reply.tokens]
        logits = np.asarray(_logits(model.config, model.params, row))[0]
        likeliest = logits.argmax(-1)[len(tokens) - 1 :][: len(reply.tokens)]
        assert likeliest.tolist() == reply.tokens

    def test_a_server_gives_the_same_answer(self, run, reply):
        testclient = pytest.importorskip("starlette.testclient")
        from nemojax.inference.server import application, opening
        from nemojax.inference.server.served import Limits

        model = loading.load(run, dtype="float32", name="mine")
        served = opening.open_model(model, configs.serving(2, LENGTH), limits=Limits())
        request = {
            "model": "mine", "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0, "max_tokens": NEW_TOKENS,
        }  # fmt: skip
        with testclient.TestClient(application.application(served)) as client:
            found = client.post("/v1/chat/completions", json=request)
        assert found.status_code == 200, found.text
        assert found.json()["choices"][0]["message"]["content"] == reply.text

    def test_its_log_probs_and_its_judges_rewards_are_read_of_a_file(
        self, run, model, tmp_path
    ):
        pairs = toy.write(tmp_path / "pairs.jsonl", toy.pairs(3))
        data = InputFiles.find([str(pairs)])
        judge = loading.load(run / "reward_model", dtype="float32")
        for scores, kind in ((model, LOG_PROBS), (judge, REWARDS)):
            scorer = Scorer(scores, ScorerConfig(kind, LENGTH))
            result = file_scoring.run(scorer, data, tmp_path / kind, 0.0)
            assert (result["rows"], result["scored"]) == (3, 3)
        for row, pair in zip(
            read_parts(tmp_path / LOG_PROBS), toy.pairs(3), strict=True
        ):
            tokens, mask = model.template.encode(
                model.tokenizer, Conversation.of(pair["prompt"], pair["chosen"])
            )
            log_probs = forward.token_log_probs(
                model.config, model.params, np.array([tokens])
            )
            expected = np.asarray(log_probs)[0][np.array(mask, bool)].sum()
            assert row["chosen"]["log_prob"] == pytest.approx(expected, abs=1e-3)
        for row in read_parts(tmp_path / REWARDS):
            assert set(row["chosen"]["rewards"]) == set(row["rejected"]["rewards"])

    @pytest.fixture(scope="class")
    @staticmethod
    def converted(model, tmp_path_factory):
        """Written for Hugging Face."""
        pytest.importorskip("safetensors")
        folder = tmp_path_factory.mktemp("hf") / "model"
        huggingface.save(folder, model.config, model.params, model.tokenizer)
        return folder

    def test_hugging_face_and_back_changes_no_bit(self, model, converted):
        config, params = huggingface.load(converted)
        assert_same(params, model.params)
        for name in ("d_model", "num_layers", "vocab_size", "num_heads", "activation"):
            assert getattr(config, name) == getattr(model.config, name)
        back = loading.load(converted)
        text = "Grüße, 1 + 1 = 2\n"
        assert back.tokenizer.encode(text) == model.tokenizer.encode(text)

    def test_transformers_gives_its_logits(self, model, converted):
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            converted, dtype=torch.float32
        )
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, model.config.vocab_size, (2, 40))
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens)).logits.numpy()
        found = _logits(model.config, model.params, tokens.astype(np.int32))
        np.testing.assert_allclose(found, expected, atol=2e-4)

    @pytest.mark.slow
    def test_the_scripts_take_the_folder_of_the_run(self, run, reply, tmp_path):
        """Asked, scored, converted, and ten steps of DPO."""
        model = f"--model={run}"
        arguments = (f"--prompt={QUESTION}", "--temperature=0", "--dtype=float32")
        out = program.result(
            program.start(
                "sample", model, *arguments, f"--max_tokens={NEW_TOKENS}", "--json=-"
            )
        )
        assert out["answer"] == reply.text
        pairs = toy.write(tmp_path / "pairs.jsonl", toy.pairs(40))
        data = f"--data={pairs}"
        scores = program.start(
            "score", model, data, f"--out={tmp_path / 'scores'}", "--json=-"
        )
        assert program.result(scores)["scored"] == 40
        program.ended(program.start("convert", model, f"--to_hf={tmp_path / 'hf'}"))
        program.ended(
            program.start(
                "convert", f"--from_hf={tmp_path / 'hf'}", f"--out={tmp_path / 'back'}"
            )
        )
        before, after = (loading.load(path) for path in (run, tmp_path / "back"))
        assert_same(after.params, before.params)
        trained = program.result(
            program.start(
                "dpo", model, data, f"--workdir={tmp_path / 'dpo'}", "--batch=4",
                "--epochs=1", f"--length={LENGTH}", "--json=-",
            )
        )  # fmt: skip
        assert trained["stages"]["dpo"]["final"]["step"] == 10
        assert find.find_model(tmp_path / "dpo") == tmp_path / "dpo" / "dpo" / "model"
