"""From samples to the micro-batches of one rank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from megalm import collectives, registry
from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.mesh import Axis, Mesh
from megalm.objectives.clm import clm
from megalm.run_config import RunConfig


class Source(Protocol):
    """Anything that gives rows of a global batch: training data, or held-out data."""

    def rows(self, step: int, first: int, count: int) -> Rows:
        """Return samples ``first`` to ``first + count`` of the global batch of a 0-based step."""
        ...


Objective = Callable[..., MicroBatch]
OBJECTIVES: Mapping[str, Objective] = {"clm": clm}


def objective_of(config: RunConfig) -> Objective:
    """Return the objective that the run file names."""
    return registry.lookup("objective.name", config.objective.name, OBJECTIVES)


class Feed:
    """Cuts each global batch into this rank's micro-batches.

    Args:
        config: the run.
        mesh: this rank's axes.
        source: where the rows come from.
        objective: makes inputs and labels of rows.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, source: Source, objective: Objective) -> None:
        """See the class."""
        self._objective = objective
        self._reset_attention = config.data.reset_attention
        self._micro_batch_size = config.train.micro_batch_size
        self._global_batch_size = config.train.global_batch_size
        self._mesh = mesh
        self._source = source

    def training_step(self, step: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a 0-based step, scaled by the global batch's valid tokens."""
        share = self._share(step, self._global_batch_size)
        num_valid = count_valid([share.labels_bs], self._mesh.data)
        share = replace(share, loss_scale=1 / num_valid if num_valid else 0.0)
        return split(to_device(share, self._mesh.device), self._micro_batch_size)

    def evaluation_step(self, step: int, batch_size: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a held-out batch of ``batch_size`` samples; losses are not scaled.

        All data ranks have as many micro-batches, as ranks that gather parameters together must: one whose samples end
        earlier goes on with a sample of which nothing is learned.
        """
        size = self._micro_batch_size
        share = replace(self._share(step, batch_size), loss_scale=1.0)
        found = split(to_device(share, self._mesh.device), size)
        missing = -(-self._per_rank(batch_size) // size) - len(found)
        if missing:
            filler = to_device(self._micro_batch(step, 0, 1), self._mesh.device)
            found += [replace(filler, labels_bs=torch.full_like(filler.labels_bs, IGNORED), loss_scale=1.0)] * missing
        return found

    def _per_rank(self, batch_size: int) -> int:
        return -(-batch_size // self._mesh.dp.size)

    def _share(self, step: int, batch_size: int) -> MicroBatch:
        per_rank = self._per_rank(batch_size)
        first = min(self._mesh.dp.rank * per_rank, batch_size)
        return self._micro_batch(step, first, min(per_rank, batch_size - first))

    def _micro_batch(self, step: int, first: int, count: int) -> MicroBatch:
        return self._objective(self._source.rows(step, first, count), reset_attention=self._reset_attention)


def count_valid(labels: Sequence[Tensor], data: Axis) -> int:
    """Return how many tokens of the global batch are learned, of which this rank holds ``labels``."""
    count = torch.tensor(sum(int((part != IGNORED).sum()) for part in labels))
    return int(collectives.all_reduce(count, data, scalar=True).item())


def split(share: MicroBatch, size: int) -> list[MicroBatch]:
    """Cut a rank's share into micro-batches of ``size`` samples; the last may be smaller."""
    return [
        replace(
            share,
            tokens_bs=share.tokens_bs[first : first + size],
            labels_bs=share.labels_bs[first : first + size],
            positions_bs=share.positions_bs[first : first + size],
            rows_bs=share.rows_bs[first : first + size],
            documents_bs=None if share.documents_bs is None else share.documents_bs[first : first + size],
        )
        for first in range(0, len(share.tokens_bs), size)
    ]


def to_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Return the micro-batch with its tensors on ``device``."""
    return replace(
        batch,
        tokens_bs=batch.tokens_bs.to(device),
        labels_bs=batch.labels_bs.to(device),
        positions_bs=batch.positions_bs.to(device),
        rows_bs=batch.rows_bs.to(device),
        documents_bs=None if batch.documents_bs is None else batch.documents_bs.to(device),
    )
