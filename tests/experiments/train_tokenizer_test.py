"""The tokenizer script as a command, on a tiny data folder."""

import json
import subprocess
import sys

import pytest

from nemojax.data.text.tokenizer import Tokenizer
from tests.recipe.folder import real_folder


def train(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.train_tokenizer", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return real_folder.write(tmp_path_factory.mktemp("data"))


def test_it_writes_a_tokenizer_with_the_report_s_settings(data, tmp_path):
    out = tmp_path / "tokenizer.model"
    flags = ("--vocab_size=400", "--megabytes=0.02", "--control_pieces=3", "--json=-")
    done = train(f"--data={data}", f"--out={out}", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    tokenizer = Tokenizer.load(out)
    assert result["sha256"] == tokenizer.fingerprint
    assert result["vocab_size"] == tokenizer.vocab_size == 400
    assert result["bytes_per_token"].keys() == {"english", "multilingual", "code"}
    assert result["bytes_per_token"]["english"] > 1.5
    text = "  two  spaces, 2048\t川\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("2048")) == 4
    tokenizer.control("<extra_id_2>")
    with pytest.raises(ValueError, match="no control piece"):
        tokenizer.control("<extra_id_3>")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vocab_size=90000"], "the text is too small for 90000 pieces"),
        (["--out=/nowhere/tokenizer.model"], "no such folder"),
        (["--english=0", "--multilingual=0", "--code=0"], "weights"),
    ],
)
def test_what_cannot_be_done_is_one_line(data, tmp_path, flags, message):
    done = train(
        f"--data={data}", f"--out={tmp_path / 'a.model'}", "--megabytes=0.02", *flags
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_text_is_needed_only_of_classes_with_a_share(tmp_path):
    """A folder with one class, and nothing held out, trains a tokenizer of it."""
    (tmp_path / "pretrain").mkdir()
    file = tmp_path / "pretrain" / "english-0.jsonl"
    file.write_text('{"text": "one two three four"}\n' * 99)
    out = tmp_path / "tokenizer.model"
    flags = (f"--data={tmp_path}", f"--out={out}", "--vocab_size=300", "--json=-")
    done = train(*flags, "--megabytes=0.02", "--control_pieces=25")
    assert done.returncode == 2 and "pretrain/multilingual-*" in done.stderr
    alone = (*flags, "--megabytes=0.02", "--control_pieces=25")
    done = train(*alone, "--multilingual=0", "--code=0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes_per_token"] == {}
    out.unlink()
    file.write_text('{"content": "one two three four"}\n' * 99)
    done = train(*alone, "--multilingual=0", "--code=0")
    assert done.returncode == 2
    assert f"{file}, row 1, field 'text': missing field" in done.stderr


def test_a_file_that_exists_is_kept(data, tmp_path):
    out = tmp_path / "tokenizer.model"
    out.write_bytes(b"mine")
    done = train(f"--data={data}", f"--out={out}")
    assert done.returncode == 2
    assert out.read_bytes() == b"mine"
