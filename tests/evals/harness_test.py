"""The harness finds the same numbers of our model, our server and transformers."""

import json
import math

import pytest

from nemojax.errors import UserError
from nemojax.interop import huggingface, loading
from tests.inference.server import serving_process

lm_eval = pytest.importorskip("lm_eval")
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager
Instance = pytest.importorskip("lm_eval.api.instance").Instance
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


@pytest.fixture(scope="module")
def model(checkpoint):
    return harness.NemojaxLM(str(checkpoint), max_length=64, batch_size=4)


def generated(model, *requests):
    """The answers to (context, settings)."""
    asked = [
        Instance("generate_until", {}, one, index) for index, one in enumerate(requests)
    ]
    return model.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize(
    "same",
    [
        {"until": ["e"]},
        {"until": ("e", "")},
        {"until": "e", "num_beams": 1, "do_sample": False},
        {"until": "e", "top_k": -1, "temperature": 0, "top_p": None},
        {"until": "e", "max_completion_tokens": 12, "max_gen_toks": None},
        {"until": "e", "max_new_tokens": 12, "max_tokens": 3, "max_gen_toks": None},
    ],
)
def test_settings_that_mean_the_same_give_the_same(model, same):
    context, settings = "the teacher", {"until": "e", "max_gen_toks": 12}
    found = generated(model, (context, settings), (context, settings | same))
    assert found[0] == found[1] and "e" not in found[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"until": 5}, "until is 5"),
        ({"until": ["a", 5]}, "until is"),
        ({"temperature": math.nan, "do_sample": True}, "temperature is nan"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_by_name(model, settings, named):
    with pytest.raises(UserError, match=named):
        generated(model, ("the teacher", settings))


def test_repeats_of_a_sampled_request_differ_and_a_run_repeats(model):
    settings = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 24, "seed": 5}
    asked = [("the teacher", settings)] * 4
    found = generated(model, *asked)
    assert len(set(found)) == 4 and found == generated(model, *asked)


def test_without_a_context_the_text_begins(model):
    """Nothing before it, or a space that the harness moves to the continuation."""

    def likely(context, continuation):
        request = Instance("loglikelihood", {}, (context, continuation), 0)
        return model.loglikelihood([request], disable_tqdm=True)[0]

    assert likely(" ", "one") == likely("", " one")
    (answer,) = generated(model, ("", {"max_gen_toks": 1}))
    assert answer and likely("", answer)[1]


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
