"""A complete checkpoint that was found intact."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from megalm.checkpoint.load import THREADS, PieceReader, check_fit
from megalm.checkpoint.manifest import FACTS, Damaged, Manifest, check_file, read_manifest
from megalm.checkpoint.peers import Peers
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.tensor_index import TensorIndex, read_tensor_index

T = TypeVar("T")


class Checkpoint:
    """One checkpoint, as every rank has it open; ``CheckpointStore.newest`` and ``open_checkpoint`` make them.

    Args:
        folder: where it lies.
        step: the step after which it was saved.
        facts: what was saved beside the tensors.
    """

    def __init__(self, folder: Path, step: int, facts: dict[str, Any], index: TensorIndex, peers: Peers) -> None:
        """See the class."""
        self.folder = folder
        self.step = step
        self.facts = facts
        self._index = index
        self._peers = peers

    def names(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return the whole shape and the dtype of every tensor, by name."""
        return {name: (tuple(tensor.size), tensor.properties.dtype) for name, tensor in self._index.tensors.items()}

    def load(self, into: Mapping[str, Piece], *, cast: bool = False) -> None:
        """Fill the pieces, bit by bit as they were saved, whatever layout they were saved at.

        Every rank calls it, each with the pieces it wants; tensors that nobody wants are not read. Nothing is written
        when a piece does not fit.

        Args:
            cast: whether values may be converted to a piece's dtype; otherwise another dtype is refused.

        Raises:
            UserError: a name or a shape does not fit; on all ranks, if on one.
        """
        self._peers.together(lambda: check_fit(self._index, into, self.folder, cast=cast))
        self._peers.together(lambda: PieceReader(self.folder, self._index).read_into(into))


def open_intact(folder: Path, peers: Peers) -> Checkpoint:
    """Check every byte of a checkpoint, each rank its share of the files, and open it.

    Raises:
        Damaged: it is not complete or not intact; on all ranks.
    """
    manifest = _agreed(lambda: _check_share(folder, peers), peers)
    index = _agreed(lambda: read_tensor_index(folder, manifest.files), peers)
    facts = _agreed(lambda: _read_facts(folder), peers)
    return Checkpoint(folder, manifest.step, facts, index, peers)


def _agreed(work: Callable[[], T], peers: Peers) -> T:
    """Return this rank's result of ``work``; raise Damaged on all ranks if one rank did."""
    results: list[T] = []

    def problem() -> str | None:
        try:
            results.append(work())
        except Damaged as damage:
            return str(damage)
        return None

    for found in peers.together(problem):
        if found is not None:
            raise Damaged(found)
    return results[0]


def _check_share(folder: Path, peers: Peers) -> Manifest:
    manifest = read_manifest(folder)
    mine = sorted(manifest.files)[peers.rank :: peers.size]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda name: check_file(folder / name, manifest.files[name]), mine))
    return manifest


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise Damaged(f"{FACTS} cannot be read ({error})") from error
    if not isinstance(facts, dict):
        raise Damaged(f"{FACTS} is not an object of JSON")
    return facts
