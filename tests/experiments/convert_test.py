"""The converter as a command: both ways, bit for bit, and what it refuses."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")

from nemojax.data.text import tokenizer as tokenizer_lib  # noqa: E402
from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer  # noqa: E402
from nemojax.interop import (  # noqa: E402
    adapters,
    classifier,
    conversion,
    huggingface,
    model_folder,
    tokenizer_files,
    weights,
)
from nemojax.models import lora  # noqa: E402
from tests.interop import nemo_files  # noqa: E402
from tests.interop.tiny import LLAMA, assert_same, random_params  # noqa: E402


def convert(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.convert", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Hugging Face checkpoint in bfloat16 with a reward head and a tokenizer."""
    path = tmp_path_factory.mktemp("hf") / "model"
    params = random_params(LLAMA, "bfloat16", 5)
    tokenizer = path.with_name("tokenizer.json")
    tokenizer.write_text("{}")
    huggingface.save(
        path, LLAMA, params, files={"tokenizer.json": tokenizer}, max_file_bytes=9999
    )
    return path


def test_there_and_back_again_is_bit_exact(checkpoint, tmp_path):
    there = convert(f"--from_hf={checkpoint}", f"--out={tmp_path / 'model'}")
    assert there.returncode == 0, there.stderr
    assert there.stdout.endswith(f"{tmp_path / 'model'}\n")
    config, tree = model_folder.read(tmp_path / "model")
    assert config == huggingface.read_config(checkpoint)
    assert_same(tree, random_params(LLAMA, "bfloat16", 5))

    back = convert(
        f"--model={tmp_path / 'model'}", f"--to_hf={tmp_path / 'hf'}", "--json=-"
    )
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["parameters"] == 10_309
    before, after = weights.Reader(checkpoint), weights.Reader(tmp_path / "hf")
    assert before.shapes == after.shapes
    for name in before.shapes:
        one, other = before.read(name), after.read(name)
        np.testing.assert_array_equal(one.view(np.uint16), other.view(np.uint16))
    for name in ("config.json", "tokenizer.json", classifier.FILE):
        assert (checkpoint / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_ids_of_special_tokens_and_the_settings_of_generation_survive(tmp_path):
    """The stop tokens that stand in config.json alone, and float16."""
    source, model, back = (tmp_path / name for name in ("hf", "model", "back"))
    ids = {"bos_token_id": 60, "eos_token_id": [61, 62], "pad_token_id": 0}
    huggingface.save(source, LLAMA, random_params(LLAMA, "float16"), fields=ids)
    (source / "generation_config.json").write_text('{"temperature": 0.6}')
    conversion.from_hugging_face(source, model)
    conversion.to_hugging_face(model, back)
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((at / name).read_text()) for at in (source, back))
        assert before == after
    assert sorted(path.name for path in source.iterdir()) == sorted(
        path.name for path in back.iterdir()
    )


def test_adapters_are_merged(tmp_path):
    source, model, folder = (tmp_path / name for name in ("hf", "model", "lora"))
    params = random_params(LLAMA)
    huggingface.save(source, LLAMA, params)
    settings = lora.LoraConfig(rank=2, patterns=("mlp/up",))
    tree = lora.init(settings, params, jax.random.key(0))
    tree = jax.tree.map(lambda leaf: leaf + 0.5, tree)
    adapters.save(folder, LLAMA, settings, tree)
    conversion.from_hugging_face(source, model, adapter=folder)
    expected = lora.merge(params, tree, settings.scale)
    assert_same(model_folder.read(model)[1], expected)


@pytest.mark.parametrize(
    "flags",
    [[], ["--from_hf=a"], ["--from_hf=a", "--to_hf=b"], ["--model=a", "--out=b"]],
)
def test_flags_that_do_not_go_together_are_refused(flags):
    done = convert(*flags)
    assert done.returncode == 2
    assert "--from_hf or --from_nemo with --out, or --model with --to_hf" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--from_nemo=a", "--out=b", "--adapter=c"],
        ["--from_hf=a", "--out=b", "--vocab_size=3"],
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(flags):
    done = convert(*flags)
    assert done.returncode == 2
    assert "goes with --" in done.stderr


def test_nothing_is_written_from_a_bad_checkpoint(checkpoint, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = {"lm_head.weight": np.zeros((2, 2), np.float32)}
    safetensors.save_file(tensors, bad / weights.SINGLE)
    done = convert(f"--from_hf={bad}", f"--out={tmp_path / 'model'}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "lm_head.weight: [2, 2], expected [64, 16]" in done.stderr
    assert "model.embed_tokens.weight: missing" in done.stderr
    assert not (tmp_path / "model").exists()


def test_a_folder_in_use_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "note.txt").write_text("mine")
    done = convert(f"--from_hf={checkpoint}", f"--out={tmp_path / 'model'}")
    assert done.returncode == 2
    assert "exists and is not empty" in done.stderr
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["note.txt"]


def test_what_is_no_model_folder_is_refused(tmp_path):
    done = convert(f"--model={tmp_path}", f"--to_hf={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "no model: neither model.json nor config.json" in done.stderr


def test_a_nemo_archive_becomes_a_model_folder(tmp_path):
    nemo_files.write(tmp_path / "nemo")
    done = convert(f"--from_nemo={tmp_path / 'nemo'}", f"--out={tmp_path / 'model'}")
    assert done.returncode == 0, done.stderr
    config, tree = model_folder.read(tmp_path / "model")
    assert config.num_layers == len(tree["layers"]["mlp"]["up"])
    assert (tmp_path / "model" / "tokenizer.model").read_bytes() == b"pieces"


def test_a_tokenizer_of_ours_becomes_the_files_that_transformers_reads(tmp_path):
    ours = tokenizer_lib.train(["some words\n"] * 9, vocab_size=290)
    ours.save(tmp_path / "tokenizer.model")
    files = tokenizer_files.find(tmp_path)
    model_folder.save(tmp_path / "model", LLAMA, random_params(LLAMA), files=files)
    done = convert(f"--model={tmp_path / 'model'}", f"--to_hf={tmp_path / 'hf'}")
    assert done.returncode == 0, done.stderr
    found = HuggingFaceTokenizer.load(tmp_path / "hf")
    assert found.encode("more words") == ours.encode("more words")
    assert (found.bos_id, found.eos_id) == (ours.bos_id, ours.eos_id)
