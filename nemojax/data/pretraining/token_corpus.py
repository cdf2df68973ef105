"""A folder of tokenized text: made from a data folder, opened for training.

tokenizer.model   written first; a folder keeps its tokenizer
english/...       tokenized files, see `token_files`; one for each input file
index.json        the files and the totals; written last
"""

import concurrent.futures
import hashlib
import json
import multiprocessing
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from nemojax.data.pretraining import corpus, token_files
from nemojax.data.pretraining.token_files import Group, TokenFile, TokenizeJob
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.io import files, folders, sealed
from nemojax.io.quarantine import DataError, Quarantine

INDEX, TOKENIZER = "index.json", "tokenizer.model"


def jobs(
    data: files.PathLike, out: files.PathLike, validation_share: float = 0.0
) -> list[TokenizeJob]:
    """Lists the tokenization jobs for the text in a data folder.

    Args:
      data: data folder with files pretrain/<class>-* and pretrain/dev-<class>*.
      out: the folder to write.
      validation_share: share of the documents of each class that has no dev files.

    Raises:
      DataError: there is no text.
    """
    found = corpus.find_corpus(data, needed=())
    out, todo = pathlib.Path(out), []
    for name in corpus.TEXT_CLASSES:
        held_out = found.validation[name]
        share = 0.0 if held_out else validation_share
        split = "" if share else token_files.TRAINING
        for path in found.training[name]:
            todo.append(TokenizeJob(path, name, out / name / path.name, split, share))
        for path in held_out:
            split = token_files.VALIDATION
            todo.append(TokenizeJob(path, name, out / name / path.name, split))
    return todo


def tokenize(
    todo: Sequence[TokenizeJob],
    tokenizer: Tokenizer,
    out: files.PathLike,
    *,
    processes: int = 1,
    max_bad_fraction: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Tokenizes what is not done yet; returns the index.

    The same bytes come of it whatever the number of processes, and however often it
    was interrupted.

    Args:
      todo: jobs of `jobs`.
      tokenizer: tokenizer of the text; also written there.
      out: the folder.
      processes: processes that work at a time.
      max_bad_fraction: largest share of the rows that may be malformed.
      progress: called with bytes of input done and in all.

    Raises:
      DataError: unreadable input, too many bad rows, or a folder of another tokenizer.
    """
    out = pathlib.Path(out)
    _claim(out, tokenizer)
    total = sum(job.path.stat().st_size for job in todo)
    done, facts = 0, {}
    for job, found in _run(todo, tokenizer, processes):
        facts[job.out.relative_to(out).as_posix()] = found
        done += job.path.stat().st_size
        progress(done, total)
    facts = dict(sorted(facts.items()))  # they came as they were done
    bad = Quarantine()
    for found in facts.values():
        bad.include(found)
    documents = sum(g["documents"] for one in facts.values() for g in one["groups"])
    where = f"{out}/*/*{token_files.REJECTS}"
    bad.check(documents + bad.total, max_bad_fraction, where)
    index = {
        "version": token_files.VERSION,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "files": list(facts),
        "rejects": bad.total,
        "totals": _by_class(facts.values()),
    }
    sealed.write(out / INDEX, index)
    return index


def _claim(out: pathlib.Path, tokenizer: Tokenizer) -> None:
    model = out / TOKENIZER
    if model.exists() and model.read_bytes() != tokenizer.model_bytes:
        raise DataError(
            f"{out} holds text of another tokenizer: name another folder with --out"
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name another folder with --out")
    if out.is_dir() and not model.exists() and any(out.iterdir()):
        raise DataError(
            f"{out} exists and holds no tokenized text: name another folder with --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    folders.write_file(model, tokenizer.model_bytes)


def _run(
    todo: Sequence[TokenizeJob], tokenizer: Tokenizer, processes: int
) -> Iterator[tuple[TokenizeJob, dict[str, Any]]]:
    if processes == 1:
        for job in todo:
            yield job, token_files.tokenize(job, tokenizer)
        return
    with concurrent.futures.ProcessPoolExecutor(
        min(processes, len(todo)),
        # A fork of a process with threads can hang.
        multiprocessing.get_context("spawn"),
        initializer=_load,
        initargs=(tokenizer.model_bytes, bool(tokenizer.dummy_prefix)),
    ) as pool:
        # The largest first, so that none works alone at the end.
        by_size = sorted(todo, key=lambda job: -job.path.stat().st_size)
        running = {pool.submit(_tokenize, job): job for job in by_size}
        try:
            for future in concurrent.futures.as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_tokenizer: list[Tokenizer] = []  # of a worker process


def _load(model: bytes, dummy_prefix: bool) -> None:
    _tokenizer.append(Tokenizer(model, dummy_prefix=dummy_prefix))


def _tokenize(job: TokenizeJob) -> dict[str, Any]:
    return token_files.tokenize(job, _tokenizer[0])


def _by_class(facts: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for group, counts in token_files.totals(facts).items():
        name = f"{group.text_class} {group.split}"
        sums = found.setdefault(name, dict.fromkeys(counts, 0))
        for key, value in counts.items():
            sums[key] += value
    return found


class TokenCorpus:
    """A tokenized folder, opened.

    Attributes:
      folder: folder of the corpus.
      files: all tokenized files, sorted by name.
      tokenizer: the one that was used.
    """

    def __init__(self, folder: files.PathLike):
        """Opens the folder and the facts of its files; records are read later.

        Raises:
          DataError: it is no such folder, not finished, or a file is missing.
        """
        self.folder = pathlib.Path(folder)
        path = self.folder / INDEX
        if not path.exists():
            raise DataError(
                f"{self.folder}: no tokenized text there ({INDEX} is missing): make it "
                "with python -m experiments.tokenize"
            )
        self.index = sealed.read(path)
        if not {"files", "tokenizer"} <= self.index.keys():
            raise DataError(f"{path}: no whole index; tokenize again")
        self.files = [TokenFile(self.folder / name) for name in self.index["files"]]
        model = self.folder / TOKENIZER
        self.tokenizer = Tokenizer.load(model)
        if self.tokenizer.fingerprint != self.index["tokenizer"]:
            raise DataError(f"{model}: not the tokenizer of the text beside it")

    def totals(self, split: str) -> dict[Group, int]:
        """Returns the tokens of each group of a split."""
        found = token_files.totals(file.facts for file in self.files)
        return {
            group: counts["tokens"]
            for group, counts in sorted(found.items())
            if group.split == split
        }

    def bytes_per_token(self, text_class: str, split: str) -> float:
        """Returns the bytes of UTF-8 that a token of a class stands for."""
        found = _by_class(file.facts for file in self.files)
        totals = found[f"{text_class} {split}"]
        return totals["bytes"] / totals["tokens"]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of files, contents, groups and tokenizer, not of their place."""
        facts = [
            (name, [file.facts[key] for key in ("sha256", "groups", "dtype")])
            for name, file in zip(self.index["files"], self.files, strict=True)
        ]
        content = json.dumps([self.index["tokenizer"], facts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
