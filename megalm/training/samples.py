"""Which samples each step saw: with ``run.record_samples``, one JSON line a step in ``RUN_DIR/samples.jsonl``.

Numbers and fingerprints are read from the micro-batches that the ranks feed to the model and gathered from all of them,
not computed from the step: they show what was learned from, whatever the layout was. Where the text of a sample lies
follows from its number.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megalm import collectives
from megalm.batch import MicroBatch
from megalm.data.order import Place
from megalm.mesh import Axis
from megalm.training.line_file import LineFile
from megalm.training.metrics import whole_rows

FILE = "samples.jsonl"
FINGERPRINT_BYTES = 8

Seen = tuple[int, str]
"""The number of a sample, and a fingerprint of its tokens and labels."""


def samples_of(microbatches: Sequence[MicroBatch], replicas: Axis) -> list[Seen]:
    """Return what all replicas were fed, by the number of the sample; every rank calls this after a step.

    Args:
        microbatches: this rank's.
        replicas: the data-parallel axis.
    """
    own = [seen for microbatch in microbatches for seen in _seen(microbatch)]
    return sorted(
        (int(number), str(tokens)) for part in collectives.gather_objects(own, replicas) for number, tokens in part
    )


def _seen(microbatch: MicroBatch) -> list[Seen]:
    length = microbatch.tokens_bs.shape[1]
    numbers = (microbatch.rows_bs[:, 0] // length).tolist()
    both_bs = torch.cat([microbatch.tokens_bs, microbatch.labels_bs], 1).cpu()
    return [
        (number, hashlib.blake2b(row.numpy().tobytes(), digest_size=FINGERPRINT_BYTES).hexdigest())
        for number, row in zip(numbers, both_bs, strict=True)
        if number >= 0  # what tasks' models differ by is no sample
    ]


class SamplesFile:
    """The writing side, held by one rank.

    Args:
        path: ``RUN_DIR/samples.jsonl``; created if it is missing.
        after: the step that the run goes on from; what a killed run wrote of later ones is dropped.
    """

    def __init__(self, path: Path, after: int) -> None:
        """See the class."""
        self._file = LineFile(path)
        ends = [end for row, end in whole_rows(path.read_bytes()) if row["step"] <= after]
        self._file.cut(max(ends, default=0))

    def write(self, step: int, samples: Sequence[tuple[Seen, Place]]) -> None:
        """Append the samples of one step."""
        row: dict[str, Any] = {"step": step, "samples": []}
        for (number, tokens), place in samples:
            where = {"corpus": place.corpus, "epoch": place.epoch, "window": place.window}
            row["samples"].append({"sample": number, **where, "tokens": tokens})
        self._file.write(json.dumps(row))

    def flush(self) -> None:
        """Return when every row is on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
