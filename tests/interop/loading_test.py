"""A checkpoint is loaded with its own tokenizer, template and stop tokens."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
import tokenizers as tokenizers_library

from nemojax.data.records import Conversation
from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.jinja_template import JinjaTemplate
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.errors import UserError
from nemojax.interop import loading, model_folder
from nemojax.models import trees
from nemojax.parallel.fingerprint import parameters_sha256
from nemojax.parallel.layout import LayoutSpec
from tests.data.text import llama_tokenizer
from tests.interop.tiny import LLAMA, assert_same, random_params
from tests.interop.tiny import NEMOTRON as SIZES

huggingface = pytest.importorskip("nemojax.interop.huggingface")
TEXTS = ["the teacher teaches three texts, ==, 1 + 1 = 2\n"] * 20
JINJA = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}A:"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(TEXTS, vocab_size=40, byte_fallback=False)


def write(path, config, files):
    model_folder.save(path, config, random_params(config), files=files)
    return path


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "file")
    return write(tmp_path / "mine", SIZES, {"tokenizer.model": tmp_path / "file"})


def test_a_model_folder(folder, tokenizer):
    found = loading.load(folder, dtype="bfloat16")
    assert (found.name, found.is_reward_model) == ("mine", False)
    assert found.config.compute_dtype == "bfloat16"
    assert_same(found.params, random_params(SIZES))
    assert found.template is NEMOTRON and found.turn_closing == "\n"
    assert found.stop_ids == (tokenizer.eos_id,)
    turn = tokenizer.control("<extra_id_1>")
    assert found.turn_stop_ids == (tokenizer.eos_id, turn)
    ids = tokenizer.encode("the texts")
    assert found.decode([*ids, turn, SIZES.vocab_size - 1]) == "the texts"


def test_a_tokenizer_that_is_not_the_models_is_refused(folder, tokenizer, tmp_path):
    other = tokenizers.train(TEXTS, vocab_size=39, byte_fallback=False)
    other.save(folder / "tokenizer.model")
    with pytest.raises(UserError, match=other.fingerprint[:16]) as error:
        loading.load_tokenizer(folder)
    assert tokenizer.fingerprint[:16] in str(error.value)
    # Of a model that an earlier version wrote nothing is known.
    fields = json.loads((folder / "model.json").read_text())
    del fields["tokenizer_sha256"]
    (folder / "model.json").write_text(json.dumps(fields))
    found = loading.load(folder, verify=False)
    assert found.tokenizer.fingerprint == other.fingerprint


def test_the_folder_of_a_run_is_loaded_under_its_name(folder):
    folder.rename(folder.parent / "model")
    found = loading.load(folder.parent)
    assert found.name == folder.parent.name
    assert found.config == SIZES


@pytest.mark.parametrize("theirs", [False, True])
def test_each_device_reads_its_part_of_each_matrix(tokenizer, tmp_path, theirs):
    """Split over data (ZeRO), pipe and tensor; norms over pipe; same fingerprint."""
    config = dataclasses.replace(SIZES, num_layers=4)
    params = random_params(config)
    if theirs:
        huggingface.save(tmp_path / "model", config, params, tokenizer)
    else:
        tokenizer.save(tmp_path / "file")
        files = {"tokenizer.model": tmp_path / "file"}
        model_folder.save(tmp_path / "model", config, params, files=files)
    layout = LayoutSpec(data=2, pipe=2, tensor=2).layout()
    found = loading.load(tmp_path / "model", layout)
    assert found.layout == layout
    assert_same(found.params, params)
    assert parameters_sha256(found.params) == parameters_sha256(params)
    for path, leaf in trees.items(found.params):
        parts = {"layers": 2}.get(path[0], 1) if path[-2].endswith("norm") else 8
        sizes = {shard.data.size for shard in leaf.addressable_shards}
        assert len(leaf.addressable_shards) == 8
        assert sizes == {leaf.size // parts}, path


def test_parameters_are_saved_in_the_dtypes_that_they_came_in(tmp_path):
    params = random_params(SIZES)
    like = {"embedding": {"table": jnp.dtype(jnp.bfloat16)}}
    model_folder.save(tmp_path / "model", SIZES, params, like=like)
    config, found = model_folder.read(tmp_path / "model")
    table = params["embedding"]["table"].astype(jnp.bfloat16)
    assert config == SIZES
    assert_same(found, {**params, "embedding": {"table": table}})


def test_a_folder_that_is_there_is_whole_and_may_stay(tmp_path):
    params = random_params(SIZES)
    model_folder.save(tmp_path / "model", SIZES, params)
    others = jax.tree.map(lambda leaf: leaf + 1, params)
    with pytest.raises(ValueError, match="exists and is not empty"):
        model_folder.save(tmp_path / "model", SIZES, others)
    model_folder.save(tmp_path / "model", SIZES, others, exist_ok=True)
    assert_same(model_folder.read(tmp_path / "model")[1], params)


def test_a_hugging_face_checkpoint_of_the_same(folder, tokenizer, tmp_path):
    ours = loading.load(folder)
    huggingface.save(tmp_path / "theirs", ours.config, ours.params, tokenizer)
    found = loading.load(tmp_path / "theirs", name="other")
    assert found.name == "other" and found.template is NEMOTRON
    assert found.tokenizer.fingerprint == tokenizer.fingerprint
    assert_same(found.params, ours.params)


def test_a_tokenizer_json_with_a_template_of_its_own(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(llama_tokenizer.tokenizer_json())
    fields = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    config = {**fields, "chat_template": JINJA}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 7]}')
    sizes = loading.load_tokenizer(tmp_path).vocab_size
    files = {name: tmp_path / name for name in loading.tokenizer_files.FILES}
    files = {name: path for name, path in files.items() if path.exists()}
    model = dataclasses.replace(LLAMA, vocab_size=sizes)
    folder = write(tmp_path / "mine", model, files)
    found = loading.load(folder)
    assert isinstance(found.template, JinjaTemplate)
    end = found.tokenizer.control("<|eot_id|>")
    assert found.stop_ids == (end, 3, 7) and end in found.turn_stop_ids
    tokens = found.template.encode_prompt(found.tokenizer, Conversation.of("Hi"))
    assert found.decode(tokens) == "user: Hi\nA:"
    assert loading.load(folder, template="none").template is None


def llama_folder(path, chat_template=None, **files):
    """Writes the tokenizer of a checkpoint, and its chat templates as named files."""
    (path / "tokenizer.json").write_bytes(llama_tokenizer.tokenizer_json())
    config = {**llama_tokenizer.SPECIAL, "chat_template": chat_template}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        file = path / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text if isinstance(text, str) else json.dumps(text))
    return path, loading.load_tokenizer(path)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template": JINJA},
        {"chat_template": {"default": JINJA, "rag": "no"}},
        {"chat_template": [{"name": "default", "template": JINJA}]},
        {"chat_template": "no", "chat_template_dot_jinja": JINJA},
        {"chat_template_dot_json": {"chat_template": JINJA}},
        {
            "chat_template_dot_jinja": JINJA,
            "additional_chat_templates__rag_dot_jinja": "no",
        },
    ],
)
def test_the_default_template_is_taken_wherever_it_lies(tmp_path, files):
    path, tokenizer = llama_folder(tmp_path, **files)
    template = loading.load_template(path, "auto", tokenizer)
    assert isinstance(template, JinjaTemplate) and template.source == JINJA
    tokens = template.encode_prompt(tokenizer, Conversation.of("Hi"))
    assert tokenizer.decode(tokens) == "user: Hi\nA:"


def test_tools_have_the_template_that_is_named_after_them(tmp_path):
    """Also in a model that is made of this one."""
    (tmp_path / "theirs").mkdir()
    path, tokenizer = llama_folder(
        tmp_path / "theirs",
        chat_template_dot_jinja="no",
        additional_chat_templates__tool_use_dot_jinja="{{ tools[0].name }}",
    )
    model = dataclasses.replace(LLAMA, vocab_size=tokenizer.vocab_size)
    folder = write(tmp_path / "ours", model, loading.tokenizer_files.find(path))
    asked = Conversation(Conversation.of("Hi").messages, ('{"name": "clock"}',))
    for each in (path, folder):
        template = loading.load_template(each, "auto", tokenizer)
        assert template
        assert tokenizer.decode(template.encode_prompt(tokenizer, asked)) == "clock"


def test_a_template_that_is_named_says_what_marks_turns(tmp_path):
    """A file may call neither `<|im_start|>` nor what ends a turn special."""
    library = tokenizers_library.Tokenizer.from_str(
        llama_tokenizer.tokenizer_json().decode()
    )
    library.add_tokens(["<|im_start|>", "<|im_end|>"])
    path, _ = llama_folder(tmp_path)
    (path / "tokenizer.json").write_text(library.to_str())
    chatml = path / "chatml"
    chatml.write_text("<|im_start|>{{ messages[0].content }}<|im_end|>")
    assert "<|im_end|>" not in loading.load_tokenizer(path).controls
    tokenizer = loading.load_tokenizer(path, str(chatml))
    template = loading.load_template(path, str(chatml), tokenizer)
    assert template
    start, *text, end = template.encode_prompt(tokenizer, Conversation.of("<|im_end|>"))
    assert start == tokenizer.control("<|im_start|>")
    assert end == tokenizer.control("<|im_end|>") and end not in text


def test_named_templates_without_a_default_are_listed(tmp_path):
    path, tokenizer = llama_folder(tmp_path, {"rag": "a", "tool_use": "b"})
    with pytest.raises(UserError, match="named 'default'; there are rag, tool_use:"):
        loading.load_template(path, "auto", tokenizer)
    assert loading.load_template(path, "llama3", tokenizer)


@pytest.mark.parametrize("value", [3, [{"name": "default"}], ["a"], {"default": 1}])
def test_what_is_no_chat_template_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"tokenizer_config.json: chat_template is"):
        llama_folder(tmp_path, value)


def test_the_template_of_a_checkpoint_comes_before_the_one_built_in(tmp_path):
    """Only where they say the same is Nemotron's own taken."""
    ours = tokenizers.train(TEXTS, vocab_size=40, byte_fallback=False)
    loading.tokenizer_files.write(tmp_path, ours)
    assert loading.load_template(tmp_path, "auto", ours) is NEMOTRON
    (tmp_path / "chat_template.jinja").write_text(JINJA)
    assert isinstance(loading.load_template(tmp_path, "auto", ours), JinjaTemplate)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "tokenizer.model").unlink(), "no tokenizer: put"),
        (lambda path: (path / "tokenizer.model").write_bytes(b"?"), "SentencePiece"),
        (lambda path: (path / "model.json").unlink(), "config.json"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: no JSON"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        loading.load(folder, verify=False)


def test_a_template_that_there_is_not(folder):
    with pytest.raises(ValueError, match=r"template 'gpt'.*auto, none, nemotron"):
        loading.load(folder, template="gpt")


def test_a_tokenizer_with_more_pieces_than_the_model(tmp_path):
    tokenizers.train(TEXTS, vocab_size=320).save(tmp_path / "file")
    folder = write(tmp_path / "mine", SIZES, {"tokenizer.model": tmp_path / "file"})
    with pytest.raises(ValueError, match="the tokenizer has 320 pieces, the model 64"):
        loading.load(folder)


@pytest.mark.parametrize("name", ["model.json", "tokenizer.model", "params"])
def test_a_changed_file_is_named(folder, name):
    path = folder / name
    if path.is_dir():
        path = max(path.rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        loading.load(folder)


def test_a_changed_folder_is_read_if_it_must_be(folder, capsys):
    path = folder / "model.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match=r"model.json: has .* remove manifest"):
        loading.load(folder)
    assert_same(loading.load(folder, verify=False).params, random_params(SIZES))
    (folder / "manifest.0.json").unlink()  # as if of an earlier version
    assert_same(loading.load(folder).params, random_params(SIZES))
    assert f"{folder} has no checksums: not verified" in capsys.readouterr().err


def test_damage_without_checksums_is_told_in_one_line(folder):
    (folder / "manifest.0.json").unlink()
    for path in (folder / "params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match="params: cannot be read") as error:
        loading.load(folder)
    assert "\n" not in str(error.value)
