"""What becomes of each cleaned document: training, validation, or dropped as a duplicate of an earlier one."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megalm.data.clean_shard import read_shard
from megalm.data.duplicates import exact_duplicates, near_duplicates
from megalm.data.files import whole_file


class Fate(IntEnum):
    """Where a document goes."""

    TRAIN = 0
    VALIDATION = 1
    EXACT_DUPLICATE = 2
    NEAR_DUPLICATE = 3


@dataclass(frozen=True)
class FateJob:
    """Decide for the documents of all shards together; memory is about 0.6 KB a document.

    Attributes:
        near_threshold: similarity from which a document is a near duplicate; 0 keeps near duplicates.
        validation: share of the documents to hold out.
    """

    shards: tuple[Path, ...]
    near_threshold: float
    validation: float
    target: Path

    def run(self) -> None:
        """Write the fates, uint8 [all texts of all shards, in order]."""
        shards = [read_shard(path) for path in self.shards]
        digests_db = np.concatenate([shard.digests_db for shard in shards])
        fates = np.zeros(len(digests_db), np.uint8)
        fates[exact_duplicates(digests_db) != np.arange(len(fates))] = Fate.EXACT_DUPLICATE
        if self.near_threshold:
            unique = np.flatnonzero(fates == Fate.TRAIN)
            signatures_dh = np.concatenate([shard.signatures_dh for shard in shards])[unique]
            repeats = near_duplicates(signatures_dh, self.near_threshold) != np.arange(len(unique))
            fates[unique[repeats]] = Fate.NEAR_DUPLICATE
        kept = np.flatnonzero(fates == Fate.TRAIN)
        fates[kept[held_out(digests_db[kept], self.validation)]] = Fate.VALIDATION
        with whole_file(self.target) as stream:
            stream.write(fates.tobytes())


def read_fates(path: Path, sizes: list[int]) -> list[NDArray[np.uint8]]:
    """Return the fates shard by shard; ``sizes`` are the numbers of texts of the shards."""
    return np.split(np.fromfile(path, np.uint8), np.cumsum(sizes)[:-1])


def fraction(digests_db: NDArray[np.uint8], word: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each document that depends on its text alone, from word 0 or 1 of its digest."""
    words = np.ascontiguousarray(digests_db).view("<u8")[:, word]
    shares: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) / 2**53
    return shares


def held_out(digests_db: NDArray[np.uint8], validation: float) -> NDArray[np.bool_]:
    """Choose the documents to hold out, each by its own text, so that other documents do not change the choice.

    Of two documents or more one at least is held out (unless ``validation`` is 0), and one at least is not.
    """
    share = fraction(digests_db, 0)
    chosen = share < validation
    if len(share) > 1 and validation > 0:
        chosen[share.argmin()] = True
    if len(share) > 0 and chosen.all():
        chosen[share.argmax()] = False
    return chosen
