"""Odd and hostile files of checkpoints: each is read, or refused in one line."""

import json
import os
import random
import shutil
import time

import jax
import pytest
import yaml

pytest.importorskip("safetensors")

from nemojax.errors import UserError
from nemojax.interop import (
    adapter_config,
    adapters,
    archives,
    classifier,
    config_json,
    huggingface,
    loading,
    nemo,
    tokenizer_files,
    weights,
)
from nemojax.models import lora
from tests.data.text import llama_tokenizer
from tests.interop import nemo_files
from tests.interop.tiny import LLAMA, NEMOTRON, random_params

pytestmark = pytest.mark.filterwarnings("ignore")
VALUES = (
    None, True, -1, 0, 1, 2**40, 10**400, 8.5, float("nan"), float("inf"), -1e-5, "",
    "x\ny", "9" * 999, [], [1], [[]], {}, {"a": {}}, {"rope_type": []},
)  # fmt: skip
TEXTS = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "no end": b"{",
    "list": b"[1]",
    "number": b"1e999",
    "digits": b'{"a": ' + b"9" * 9999 + b"}",
    "deep": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "NaN": b"NaN",
    "null": b"null",
    "two": b"{} {}",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}
JSON_FILES = {
    "config.json": config_json.TOKEN_IDS,
    weights.INDEX: ("weight_map",),
    "generation_config.json": ("eos_token_id",),
    "tokenizer_config.json": ("bos_token", "eos_token", "chat_template"),
    "special_tokens_map.json": ("pad_token",),
    adapter_config.CONFIG: (*adapter_config.READ, "later"),
    classifier.FILE: ("sha256", "bias", "final_norm_bias"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A classifier with tokenizer and adapters in one folder: all files there are."""
    path = tmp_path_factory.mktemp("whole")
    params = random_params(NEMOTRON, num_attributes=2)
    huggingface.save(path / "model", NEMOTRON, params, fields={"pad_token_id": 0})
    settings = lora.LoraConfig(rank=2, patterns=("mlp/up",))
    tree = lora.init(settings, params, jax.random.key(0))
    adapters.save(path / "lora", NEMOTRON, settings, tree)
    for file in (path / "lora").iterdir():
        shutil.copy(file, path / "model")
    (path / "model" / "tokenizer.json").write_bytes(llama_tokenizer.tokenizer_json())
    for name in JSON_FILES:
        file = path / "model" / name
        if not file.exists() and name != weights.INDEX:
            file.write_text("{}")
    return path / "model"


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def read_model(folder):
    """Reads a config, and as little of the weights as tells."""
    huggingface.read_config(folder)
    next(huggingface.leaves(folder))


def read_tokenizer(folder):
    tokenizer = loading.load_tokenizer(folder)
    loading.load_template(folder, "auto", tokenizer)
    loading.stop_ids(folder, tokenizer, NEMOTRON.vocab_size)
    tokenizer_files.token_ids(tokenizer_files.find(folder))


def read_adapters(folder):
    adapters.load(folder, NEMOTRON)


READERS = {
    weights.INDEX: read_model,
    weights.SINGLE: read_model,
    classifier.FILE: read_model,
    adapter_config.CONFIG: read_adapters,
    adapters.WEIGHTS: read_adapters,
}


def in_one_line(folder, reading, allowed=True):
    """Whether the folder is read; a refusal is one short line that names a file."""
    start = time.monotonic()
    try:
        reading(folder)
    except UserError as error:
        text = str(error)
        assert "\n" not in text and text.isprintable(), text
        assert str(folder) in text, text
        assert len(text) < 5_000, text[:500]
        return False
    finally:
        assert time.monotonic() - start < 60
    assert allowed, "it was read"
    return True


def test_the_folder_is_read_as_it_is(folder):
    for reading in (read_model, read_tokenizer, read_adapters):
        assert in_one_line(folder, reading)


@pytest.mark.parametrize("name", JSON_FILES)
def test_what_is_no_json_object_is_refused(folder, name):
    reading = READERS.get(name, read_tokenizer)
    for text in TEXTS.values():
        (folder / name).write_bytes(text)
        in_one_line(folder, reading, allowed=False)


@pytest.mark.parametrize("name", [*JSON_FILES, weights.SINGLE, adapters.WEIGHTS])
def test_what_is_no_regular_file_is_refused(folder, name):
    reading = READERS.get(name, read_tokenizer)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    in_one_line(folder, reading, allowed=False)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    in_one_line(folder, reading, allowed=False)
    (folder / name).unlink()
    (folder / name).mkdir()
    in_one_line(folder, reading, allowed=False)


@pytest.mark.parametrize("name", JSON_FILES)
def test_fields_of_all_types_are_read_or_refused(folder, name):
    file, reading = folder / name, READERS.get(name, read_tokenizer)
    plain = json.loads(file.read_text()) if file.exists() else {}
    for field in JSON_FILES[name]:
        for value in VALUES:
            file.write_text(json.dumps(plain | {field: value}))
            in_one_line(folder, reading)


@pytest.mark.parametrize("config", [NEMOTRON, LLAMA], ids=["nemotron", "llama"])
def test_configs_of_all_types_are_read_or_refused(tmp_path, config):
    plain = config_json.to_json(config)
    path = tmp_path / "config.json"
    seen = []
    for field in {*plain, *config_json.READ, "sliding_window"}:
        for value in VALUES:
            path.write_text(json.dumps(plain | {field: value}))
            seen.append(in_one_line(tmp_path, huggingface.read_config))
    assert seen.count(False) > 200 and seen.count(True) > 50


@pytest.mark.parametrize("name", [weights.SINGLE, adapters.WEIGHTS])
def test_a_header_with_flipped_bits_is_read_or_refused(folder, name):
    reading = READERS[name]
    whole = (folder / name).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(rng.choice((1, 3))):
            broken[rng.randrange(header)] ^= 1 << rng.randrange(8)
        cut = rng.choice((len(whole), rng.randrange(header), len(whole) - 1))
        (folder / name).write_bytes(bytes(broken)[:cut])
        in_one_line(folder, reading)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    path = tmp_path_factory.mktemp("nemo") / "unpacked"
    nemo_files.write(path)
    return path


@pytest.fixture
def checkpoint(unpacked, tmp_path):
    shutil.copytree(unpacked, tmp_path / "model")
    return tmp_path / "model"


def read_nemo(path):
    with archives.opened(path) as directory:
        for _ in nemo.leaves(directory):
            pass


def test_a_nemo_config_of_all_types_is_read_or_refused(checkpoint):
    file = checkpoint / nemo.CONFIG
    for field in (*nemo_files.FIELDS, "rotary_base", "max_position_embeddings"):
        for value in (*VALUES, {1: 2}):
            file.write_text(yaml.safe_dump(nemo_files.FIELDS | {field: value}))
            in_one_line(checkpoint, nemo.read_config)
    for text in (*TEXTS.values(), b"a: *b", b"? [1]\n: 2", b"a: 2026-99-99", b"\x01"):
        file.write_bytes(text)
        in_one_line(checkpoint, nemo.read_config, allowed=False)


@pytest.mark.parametrize("field", ["shape", "chunks", "dtype", "order", "compressor"])
def test_an_array_with_other_metadata_is_read_or_refused(checkpoint, field):
    folder = checkpoint / nemo.WEIGHTS / "model.embedding.word_embeddings.weight"
    file = folder / ".zarray"
    plain = file.read_text()
    for value in (*VALUES, [2**40, 2**40], [0, 0], "<f4", "<U9", "|O", {"id": "zlib"}):
        file.write_text(json.dumps(json.loads(plain) | {field: value}))
        in_one_line(checkpoint, read_nemo)
    for text in TEXTS.values():
        file.write_bytes(text)
        in_one_line(checkpoint, read_nemo, allowed=False)
