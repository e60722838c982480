"""From samples to the micro-batches of one rank."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from megalm import collectives, registry
from megalm.batch import IGNORED, MicroBatch
from megalm.data.corpora import Cut, WindowCorpus
from megalm.data.loader import Rows
from megalm.data.record_cuts import PackedRecords, SingleRecords
from megalm.data.special_tokens import SpecialTokens
from megalm.mesh import Axis, Mesh
from megalm.models.encoder_shape import ENCODERS
from megalm.objectives.classify import Classify
from megalm.objectives.clm import clm
from megalm.objectives.instruct import instruct
from megalm.run_config import RunConfig
from megalm.training.mlm_nsp import mlm_nsp, mlm_nsp_cut, rtd
from megalm.training.seq2seq import seq2seq, seq2seq_cut


def classify_of(config: RunConfig) -> Classify:
    """Return the objective for the model: an encoder reads its texts between two special tokens."""
    if config.model.family not in ENCODERS:
        return Classify()
    special = SpecialTokens.of(config.data.tokenizer_path())
    return Classify((special.id_of("cls"), special.id_of("sep")))


class Source(Protocol):
    """Anything that gives rows of a global batch: training data, or held-out data."""

    def rows(self, step: int, first: int, count: int) -> Rows:
        """Return samples ``first`` to ``first + count`` of the global batch of a 0-based step."""
        ...


Objective = Callable[..., MicroBatch]
"""``(rows, reset_attention=...)`` gives inputs, labels and the weights of the losses."""
OBJECTIVES: Mapping[str, Callable[[RunConfig], Objective]] = {
    "classify": classify_of,
    "clm": lambda config: clm,
    "instruct": lambda config: instruct,
    "mlm_nsp": mlm_nsp,
    "rtd": rtd,
    "seq2seq": seq2seq,
}
CUTS: Mapping[str, Callable[[RunConfig], Cut]] = {
    "classify": lambda config: SingleRecords(config.model.num_labels),
    "instruct": lambda config: PackedRecords,
    "mlm_nsp": mlm_nsp_cut,
    "rtd": mlm_nsp_cut,
    "seq2seq": seq2seq_cut,
}
"""How corpora become the samples of an objective; one of the user's own reads windows of a text."""


def objective_of(config: RunConfig) -> Objective:
    """Return the objective that the run file names."""
    name = config.objective.name
    if name in OBJECTIVES:
        return OBJECTIVES[name](config)
    return registry.lookup("objective.name", name, dict.fromkeys(OBJECTIVES, clm))


def cut_of(config: RunConfig) -> Cut:
    """Return how the objective that the run file names wants corpora cut into samples."""
    name = config.objective.name
    return CUTS[name](config) if name in CUTS else WindowCorpus


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
        scaled = count_valid([share], self._mesh.data).mean_of(share)
        return split(to_device(scaled, self._mesh.device), self._micro_batch_size)

    def held_out(self, batch_sizes: Sequence[int]) -> tuple["Valid", Iterator[list[MicroBatch]]]:
        """Return what is learned of the first held-out batches, and this rank's micro-batches of each.

        The losses of all are a mean together, so all are read before the first is given; the device has one at a time.
        All data ranks have as many micro-batches, as ranks that gather parameters together must: one whose samples end
        earlier goes on with a sample of which nothing is learned.

        Args:
            batch_sizes: the samples of each batch.
        """
        shares = [self._share(step, batch_size) for step, batch_size in enumerate(batch_sizes)]
        valid = count_valid(shares, self._mesh.data)
        return valid, (
            self._even_parts(step, batch_size, share, valid)
            for step, (batch_size, share) in enumerate(zip(batch_sizes, shares, strict=True))
        )

    def _even_parts(self, step: int, batch_size: int, share: MicroBatch, valid: "Valid") -> list[MicroBatch]:
        size = self._micro_batch_size
        found = split(to_device(valid.mean_of(share), self._mesh.device), size)
        missing = -(-self._per_rank(batch_size) // size) - len(found)
        if missing:
            filler = valid.mean_of(unlearned(self._micro_batch(step, 0, 1)))
            found += [to_device(filler, self._mesh.device)] * missing
        return found

    def _per_rank(self, batch_size: int) -> int:
        return -(-batch_size // self._mesh.dp.size)

    def _share(self, step: int, batch_size: int) -> MicroBatch:
        per_rank = self._per_rank(batch_size)
        first = min(self._mesh.dp.rank * per_rank, batch_size)
        return self._micro_batch(step, first, min(per_rank, batch_size - first))

    def _micro_batch(self, step: int, first: int, count: int) -> MicroBatch:
        return self._objective(self._source.rows(step, first, count), reset_attention=self._reset_attention)


class Valid(NamedTuple):
    """How much is learned of some samples, over all data ranks.

    Args:
        tokens: with a label.
        samples: with a class.
        judged: tokens of which it is asked whether they were replaced.
    """

    tokens: int
    samples: int
    judged: int = 0

    def mean_of(self, batch: MicroBatch) -> MicroBatch:
        """Scale the losses of a part so that those of all parts only need summing: each is a mean over what has it."""
        return batch.scaled(*(1 / count if count else 0.0 for count in self))


def count_valid(shares: Iterable[MicroBatch], data: Axis) -> Valid:
    """Return how much is learned of the global batches, of which this rank has ``shares``."""
    counts = {"tokens": 0}
    for share in shares:
        counts["tokens"] += int((share.labels_bs != IGNORED).sum())
        if share.classes_b is not None:
            counts["samples"] = counts.get("samples", 0) + int((share.classes_b != IGNORED).sum())
        if share.judged_bs is not None:
            counts["judged"] = counts.get("judged", 0) + int(share.judged_bs.sum())
    found = collectives.all_reduce(torch.tensor(list(counts.values())), data, scalar=True).tolist()
    return Valid(**{"samples": 0, **dict(zip(counts, found, strict=True))})


def unlearned(batch: MicroBatch) -> MicroBatch:
    """Return the micro-batch with nothing to learn."""
    classes = None if batch.classes_b is None else torch.full_like(batch.classes_b, IGNORED)
    judged = None if batch.judged_bs is None else torch.zeros_like(batch.judged_bs)
    return replace(batch, labels_bs=torch.full_like(batch.labels_bs, IGNORED), classes_b=classes, judged_bs=judged)


def split(share: MicroBatch, size: int) -> list[MicroBatch]:
    """Cut a rank's share into micro-batches of ``size`` samples; the last may be smaller."""

    def part(first: int) -> MicroBatch:
        return share.mapped(lambda tensor: tensor[first : first + size])

    return [part(first) for first in range(0, len(share.tokens_bs), size)]


def to_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Return the micro-batch with its tensors on ``device``."""
    return batch.mapped(lambda tensor: tensor.to(device))
