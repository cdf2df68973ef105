"""Log-probs of the reference policy: computed once, kept on the disk, and read back.

    reference.bin    of each pair float32 [2], chosen and rejected, and a checksum
    reference.json   the fingerprint of what they were computed with

A number is written when the device gave it, so what a kill leaves is what was done. The
file of another fingerprint (weights, tokens, limits) is begun anew: nothing of it is
ever taken for this one's. A pair whose checksum is not that of its values, its place
and the fingerprint is missing, whether it was not computed yet, torn or damaged.
"""

import functools
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.data.batching.packing import PackedBatch
from nemojax.errors import UserError
from nemojax.io import folders
from nemojax.models.config import ModelConfig
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, placement, programs, stage
from nemojax.training.objectives import PreferenceBatch
from nemojax.training.stage import Options
from nemojax.training.step import Passes

VALUES, FINGERPRINT = "reference.bin", "reference.json"
_PAIR = np.dtype([("values", "<f4", 2), ("checksum", "<u4")])
# (batch on the devices) -> float32 [N], log-probs of its sequences; [P, N] of passes.
LogProbs = Callable[[PreferenceBatch | Passes], jax.Array]
# A pass writes to the disk itself after so many batches.
_FLUSH_BATCHES = 16


class ReferenceCache:
    """The log-probs of N pairs; of several processes the first one holds the file.

    Attributes:
      values: float32 [N, 2], NaN where they are missing: a 0 would look like one.
      computed: batches that were computed since it was opened.
    """

    def __init__(self, directory: Path, fingerprint: dict[str, str], pairs: int):
        """Opens the file, or begins it.

        Args:
          directory: folder; it is made where it does not exist.
          fingerprint: fingerprint of all that decides the values.
          pairs: N.
        """
        self.computed = 0
        processes.broadcast_from_process_0(
            lambda: _begin(directory, fingerprint, pairs)
        )
        self._seed = zlib.crc32(json.dumps(fingerprint, sort_keys=True).encode())
        self._file, values = None, np.full((pairs, 2), np.nan, np.float32)
        if processes.is_process_0():
            self._file = np.memmap(directory / VALUES, _PAIR, "r+", shape=pairs)
            sums = self._checksums(np.arange(pairs), self._file["values"])
            whole = sums == self._file["checksum"]
            values[whole] = self._file["values"][whole]
        self.values = processes.broadcast_array_from_process_0(values)

    def fill(
        self,
        batches: ExampleBatches,
        log_probs: Callable[[PackedBatch], np.ndarray],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Computes what is missing, batch by batch as the first epoch has them.

        On the very batches that the policy will see: at step 0 every log ratio is 0.

        Args:
          batches: batches of the run.
          log_probs: float32 [sequences] of a batch.
          progress: called with the batches done, and all.
        """
        total = batches.epoch_steps
        for k in range(total):
            for part in batches.parts(k):
                members = np.array(part.members, int)
                rows = np.flatnonzero(np.isnan(self.values[members]).any(1))
                if len(rows):
                    found = log_probs(part)[: 2 * len(members)].reshape(-1, 2)
                    _check_finite(found[rows], members[rows])
                    self._keep(members[rows], found[rows])
                    self.computed += 1
                    if self.computed % _FLUSH_BATCHES == 0:
                        self._flush()
            progress(k + 1, total)
        self._flush()

    def _keep(self, pairs: np.ndarray, values: np.ndarray) -> None:
        self.values[pairs] = values
        if self._file is not None:
            self._file["values"][pairs] = values
            self._file["checksum"][pairs] = self._checksums(pairs, values)

    def _checksums(self, pairs: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Computes uint32 [len(pairs)]; of what was not written, zeros, it is not 0."""
        rows = zip(pairs.astype("<i8"), values.astype("<f4"), strict=True)
        sums = (
            zlib.crc32(pair.tobytes() + row.tobytes(), self._seed) for pair, row in rows
        )
        return np.fromiter(sums, np.uint32, len(pairs))

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def of(self, members: Sequence[int]) -> np.ndarray:
        """Returns float32 [2 * len(members)]: chosen and rejected in turn.

        Raises:
          UserError: a value is missing.
        """
        found = np.asarray(self.values[list(members)])
        if np.isnan(found).any():
            raise UserError("reference log-probs are missing: fill the cache first")
        return found.reshape(-1)


def log_probs_of(config: ModelConfig, options: Options, params: Any) -> LogProbs:
    """Makes the log-probs of sequences under parameters, which are put on the mesh.

    Micro-batches are those of the train step, so that at step 0 both agree to the bit.
    Every process sees all of them.

    Args:
      config: sizes.
      options: options with the layout.
      params: parameters of the reference, in the plain shape.
    """
    there = stage.packed(config, options.layout, params)

    def log_probs(batch: PreferenceBatch | Passes) -> jax.Array:
        layout = options.spec.of_pass(programs.pass_rows(batch), options.layout.mesh)
        return program(config, layout)(there, batch)

    return log_probs


@functools.lru_cache(maxsize=8)
def program(config: ModelConfig, layout: Layout) -> Any:
    """Compiles `(parameters as the layout has them, batch) -> log-probs`."""

    def of_pass(params, batch: PreferenceBatch):
        count = len(batch.reference)
        return objectives.sequence_log_probs(
            config, params, batch.text, batch.sequence_ids, count, layout
        )

    @functools.partial(jax.jit, out_shardings=placement.everywhere(layout))
    def log_probs(params, batch: PreferenceBatch | Passes):
        if isinstance(batch, Passes):
            return jax.lax.map(functools.partial(of_pass, params), batch.parts)
        return of_pass(params, batch)

    return log_probs


def filled_in(log_probs: LogProbs, batch: Any) -> Any:
    """Returns a batch, or its passes, with these log-probs as the reference's."""
    if isinstance(batch, Passes):
        return Passes(batch.parts._replace(reference=log_probs(batch)))
    return batch._replace(reference=log_probs(batch))


def _check_finite(values: np.ndarray, members: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise UserError(
            f"the reference gives pair {members[bad[0]]} a log-prob that is not finite"
        )


def _begin(directory: Path, fingerprint: dict[str, str], pairs: int) -> None:
    """Makes the file where there is none of this fingerprint."""
    directory.mkdir(parents=True, exist_ok=True)
    path, mark = directory / VALUES, directory / FINGERPRINT
    size = pairs * _PAIR.itemsize
    if _is(mark, fingerprint) and path.exists() and path.stat().st_size == size:
        return
    mark.unlink(missing_ok=True)  # before the values go: never old with new
    path.write_bytes(bytes(size))
    folders.write_json(mark, fingerprint)


def _is(mark: Path, fingerprint: dict[str, str]) -> bool:
    try:
        return json.loads(mark.read_text()) == fingerprint
    except (OSError, ValueError):
        return False
