"""Tokenized folders: the same bytes however they are made, and what damage does."""

import gzip
import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from nemojax.data.pretraining import samples, token_corpus, token_files
from nemojax.data.pretraining.blends import ClassBlend, components
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.data.text import tokenizer
from nemojax.io import folders
from nemojax.io.quarantine import DataError

TEXTS = {
    "english": ["the cat sat on the mat. ", "a dog ran far away, and came back. "],
    "multilingual": ["der Hund lief weit weg. ", "le chat dort sur le lit. "],
    "code": ["def f(x):\n    return x + 1\n", "int main(void) { return 0; }\n"],
}


def write_text(folder, documents=12):
    """A data folder with two files a class, one held out, in several formats."""
    (folder / "pretrain").mkdir(parents=True)
    for number, (name, texts) in enumerate(TEXTS.items()):
        rows = [
            {
                "text": f"{n}: " + texts[n % 2] * (3 + n * 7 % 11),
                "language": f"l{n % 2}",
                "source": "s",
            }
            for n in range(documents)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"pretrain/{name}-0.jsonl").write_text(lines)
        others = lines.replace('"text": "', '"text": "again ')
        packed = gzip.compress(others.encode(), mtime=0)
        (folder / f"pretrain/{name}-1.jsonl.gz").write_bytes(packed)
        if number < 2:
            held_out = json.dumps({"text": "held out " + texts[0] * 9}) + "\n"
            (folder / f"pretrain/dev-{name}.jsonl").write_text(held_out)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model():
    texts = [text for pair in TEXTS.values() for text in pair] * 20
    return tokenizer.train(texts, vocab_size=420)


@pytest.fixture(scope="module")
def tokens(data, model, tmp_path_factory):
    """The folder, tokenized."""
    out = tmp_path_factory.mktemp("out") / "tokens"
    token_corpus.tokenize(token_corpus.jobs(data, out, 0.25), model, out)
    return out


def contents(folder):
    """Hashes by name."""
    return {
        path.relative_to(folder).as_posix(): folders.sha256(path)[:8]
        for path in folder.rglob("*")
        if path.is_file()
    }


def opened(folder, length=16, blend=None, **options):
    corpus = TokenCorpus(folder)
    blend = blend or {name: ClassBlend(1.0) for name in TEXTS}
    parts = components(blend, corpus.totals(token_files.TRAINING), 1000)
    return samples.Samples(
        corpus, [samples.BlendPhase(0, tuple(parts))], length, 0, **options
    )


def test_documents_come_back_with_what_ends_them(data, tokens, model):
    corpus = TokenCorpus(tokens)
    for file in corpus.files:
        rows = (data / "pretrain" / file.facts["input"]).read_bytes()
        if file.facts["input"].endswith(".gz"):
            rows = gzip.decompress(rows)
        texts = [json.loads(line)["text"] for line in rows.splitlines()]
        ids = [list(file.read(record)) for record in range(len(texts))]
        assert [model.decode(one[:-1]) for one in ids] == texts
        assert {one[-1] for one in ids} == {model.eos_id}
        assert list(file.row) == list(range(1, len(texts) + 1))


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    data, tokens, model, tmp_path
):
    out = tmp_path / "tokens"
    jobs = token_corpus.jobs(data, out, 0.25)
    token_corpus.tokenize(jobs, model, out, processes=2)
    assert contents(out) == contents(tokens)


def test_held_out_text_is_that_of_the_dev_files_or_a_share(tokens):
    totals = TokenCorpus(tokens).index["totals"]
    assert totals["english validation"]["documents"] == 1
    assert totals["english training"]["documents"] == 24
    held_out = totals["code validation"]["documents"]
    assert 0 < held_out < 24
    assert totals["code training"]["documents"] + held_out == 24


def test_a_killed_run_goes_on_and_makes_the_same(data, tokens, model, tmp_path):
    """SIGKILL when the third file is begun, in a process of its own."""
    model.save(tmp_path / "tokenizer.model")
    out = tmp_path / "tokens"
    command = [
        sys.executable, "-m", "experiments.tokenize", f"--data={data}", f"--out={out}",
        f"--tokenizer={tmp_path / 'tokenizer.model'}", "--held_out_share=0.25",
        "--workers=1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    third = out / "english" / "dev-english.jsonl.array_record"
    deadline = time.monotonic() + 60
    while not third.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    process.wait()
    done = list(out.glob("*/*.json"))
    before = {path: path.stat().st_mtime_ns for path in done}
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert contents(out) == contents(tokens)
    if process.returncode == -signal.SIGKILL:
        assert {path: path.stat().st_mtime_ns for path in done} == before


def test_a_folder_of_another_tokenizer_is_left_alone(data, tokens):
    other = tokenizer.train(["other text of many words, " * 9] * 9, vocab_size=300)
    before = contents(tokens)
    with pytest.raises(DataError, match="another tokenizer"):
        token_corpus.tokenize(token_corpus.jobs(data, tokens), other, tokens)
    assert contents(tokens) == before


def test_bad_rows_are_kept_apart_counted_and_stop_at_too_many(model, tmp_path):
    data = write_text(tmp_path / "data")
    with (data / "pretrain/code-0.jsonl").open("a") as file:
        file.write('{"text": ""}\n{"text"\n')
    out = tmp_path / "out"
    index = token_corpus.tokenize(token_corpus.jobs(data, out), model, out)
    assert index["rejects"] == 2
    rejects = out / "code/code-0.jsonl.rejects.jsonl"
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in rows] == [
        (13, "empty text"),
        (14, "not JSON"),
    ]
    with pytest.raises(
        DataError, match=r"2 of 76 rows are malformed.*row 13, .*: empty"
    ):
        token_corpus.tokenize(
            token_corpus.jobs(data, out), model, out, max_bad_fraction=0.01
        )


def test_what_is_missing_is_named(tokens, tmp_path, model, data):
    with pytest.raises(DataError, match=r"index\.json is missing"):
        TokenCorpus(tmp_path)
    out = tmp_path / "tokens"
    token_corpus.tokenize(token_corpus.jobs(data, out, 0.25), model, out)
    gone = out / "code" / "code-0.jsonl.array_record"
    gone.unlink()
    with pytest.raises(DataError, match=r"code-0\.jsonl.*tokenize it again"):
        TokenCorpus(out)
    token_corpus.tokenize(token_corpus.jobs(data, out, 0.25), model, out)
    assert contents(out) == contents(tokens)


def test_an_epoch_has_every_token_once_and_the_next_in_another_order(tokens):
    blend = {"english": ClassBlend(1.0)}
    one = opened(tokens, length=8, blend=blend)
    total = TokenCorpus(tokens).index["totals"]["english training"]["tokens"]
    per_epoch = total // 8
    epochs = []
    for epoch in range(3):
        places = one.places(epoch * per_epoch, per_epoch)
        begins = np.array([begin for _, begin in places])
        covered = (begins[:, None] + np.arange(8)) % total
        assert len(np.unique(covered)) == per_epoch * 8
        epochs.append(tuple(begins))
    assert len(set(epochs)) == 3


def test_a_batch_depends_on_its_numbers_alone(tokens):
    whole = opened(tokens, isolate_documents=True).batch(100, 12)
    again = opened(tokens, isolate_documents=True)
    again.batch(3, 5)
    for start, stop in ((4, 12), (0, 4)):
        part = again.batch(100 + start, stop - start)
        wanted = jax.tree.map(lambda leaf, of=slice(start, stop): leaf[of], whole)
        jax.tree.map(np.testing.assert_array_equal, part, wanted)


def test_documents_see_each_other_as_in_the_report_or_not(tokens, model):
    together, apart = opened(tokens), opened(tokens, isolate_documents=True)
    a, b = together.batch(0, 40), apart.batch(0, 40)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    assert a.segment_ids is None and a.loss_mask[:, 1:].all()
    ends = a.tokens[:, :-1] == model.eos_id
    np.testing.assert_array_equal(np.diff(b.segment_ids, axis=1) == 1, ends)
    np.testing.assert_array_equal(b.loss_mask[:, 1:] == 0, ends)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_damaged_record_is_named_counted_and_left_out(
    data, model, tmp_path, isolated
):
    out = tmp_path / "tokens"
    token_corpus.tokenize(token_corpus.jobs(data, out), model, out)
    intact = opened(out, length=64).batch(0, 60)
    path = out / "english" / "english-0.jsonl.array_record"
    content = bytearray(path.read_bytes())
    files = {file.facts["input"]: file for file in TokenCorpus(out).files}
    ids = files["english-0.jsonl"].read(5).tobytes()
    content[content.index(ids) + 3] ^= 0xFF
    path.write_bytes(content)
    faults = tmp_path / "faults.jsonl"
    with pytest.raises(DataError, match=r"record 5 \(row 6 of english-0\.jsonl\)"):
        opened(out, length=64, faults=faults).batch(0, 60)
    faults.unlink()
    options = {"faults": faults, "max_lost": 60, "isolate_documents": isolated}
    source = opened(out, length=64, **options)
    batch = source.batch(0, 60)
    assert len(source.damaged) == 1 and source.lost
    (row,) = [json.loads(line) for line in faults.read_text().splitlines()]
    assert (row["file"], row["record"], row["row"]) == (str(path), 5, 6)
    lost = (batch.tokens == 0) & (intact.tokens != 0)
    assert lost.any() and not batch.loss_mask[lost].any()
    assert not batch.loss_mask[:, 1:][lost[:, :-1]].any()
    np.testing.assert_array_equal(batch.tokens[~lost], intact.tokens[~lost])


def test_validation_has_all_held_out_text_in_order(tokens, model):
    corpus = TokenCorpus(tokens)
    found = samples.validation_batches(corpus, "validation", 16, 2, 10**6)
    assert sorted(found) == ["code", "english", "multilingual"]
    rows = np.concatenate([batch.tokens for batch in found["english"]])
    there = np.concatenate([batch.segment_ids for batch in found["english"]]) > 0
    text = "held out " + TEXTS["english"][0] * 9
    assert list(rows[there]) == [*model.encode(text), model.eos_id]
