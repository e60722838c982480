"""Faults of the kinds that peers shipped, each planted by replacing one thing in the running process."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from megalm import collectives, parameters, rng
from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.attention import Attention
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import Bucket, Slot
from megalm.parallel.data.exchange import Exchange
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Parcel, Transport
from megalm.parallel.tensor import cross_entropy, linear
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.region import Region
from megalm.param_spec import ParamSpec
from megalm.training import feed, model
from tests.verify.offload_faults import OFFLOAD_FAULTS
from tests.verify.recompute_faults import RECOMPUTE_FAULTS
from tests.verify.update_faults import UPDATE_FAULTS

Patch = Callable[[], Any]


def _no_data_sum() -> Any:
    """Gradients are not summed over the data ranks."""
    original = Exchange.reduce

    def reduce(self: Exchange, place: tuple[int, int]) -> None:
        self._replicas = Axis.alone()
        original(self, place)

    return mock.patch.object(Exchange, "reduce", reduce)


def _averaged_twice() -> Any:
    """Gradients already scaled by the global batch are divided by the data ranks once more."""
    original = Exchange.finish

    def finish(self: Exchange) -> None:
        original(self)
        for bucket in self._buckets:
            bucket.owned_gradients.div_(self._shard.size * self._replicas.size)

    return mock.patch.object(Exchange, "finish", finish)


def _one_bucket_forgotten() -> Any:
    """The gradients of one block are never reduced."""
    original = Exchange.reduce

    def reduce(self: Exchange, place: tuple[int, int]) -> None:
        if place[1] != 1:
            original(self, place)

    return mock.patch.object(Exchange, "reduce", reduce)


def _norm_counts_replicas() -> Any:
    """The gradient norm counts what every tensor rank holds whole once for each."""

    def owned(self: ParamSpec, positions: Mapping[str, int]) -> tuple[slice, ...]:
        return tuple(slice(0, size) for size in self.shape)

    return mock.patch.object(ParamSpec, "owned_slices", owned)


def _norm_of_own_slices() -> Any:
    """The gradient norm is not summed over the tensor ranks."""
    original = Optimizer.grad_norm

    def grad_norm(self: Optimizer) -> float:
        self._axes = self._axes[1:]
        return original(self)

    return mock.patch.object(Optimizer, "grad_norm", grad_norm)


def _mean_of_means() -> Any:
    """Each rank divides by its own valid tokens, not by the global batch's."""

    def count(shares: Iterable[MicroBatch], data: Axis) -> feed.Valid:
        return feed.Valid(sum(int((share.labels_bs != -100).sum()) for share in shares) * data.size, 0)

    return mock.patch.object(feed, "count_valid", count)


def _last_microbatch_only() -> Any:
    """Only the last micro-batch's gradients are kept."""
    original = Stage.backward

    def backward(self: Stage, number: int, gradients: Gradients | None = None, block: int | None = None) -> Gradients:
        if number + 1 < 3:
            del self._kept[number]
            return {}
        return original(self, number, gradients, block)

    return mock.patch.object(Stage, "backward", backward)


def _wrong_key_heads() -> Any:
    """Query heads read the first key heads of the rank, whatever their group."""

    def key_of_query(self: HeadCut, position: int) -> list[int]:
        first, last = self.key[position]
        return [head % (last - first) for head in range(len(range(*self.query[position])))]

    return mock.patch.object(HeadCut, "key_of_query", key_of_query)


def _wrong_slice() -> Any:
    """Every rank draws the first slice of the query weights."""
    original = parameters.draw

    def draw(values: Tensor, spec: ParamSpec, stream: int, starts: Sequence[int]) -> None:
        original(values, spec, stream, [0] * len(starts) if "q_proj" in spec.name else starts)

    return mock.patch.object(parameters, "draw", draw)


def _dropout_by_rank() -> Any:
    """Dropout is drawn by the place in the rank's own micro-batch."""
    original = Dropout.forward

    def forward(self: Dropout, x: Tensor, token_rows: Tensor) -> Tensor:
        return original(self, x, token_rows - token_rows[0])

    return mock.patch.object(Dropout, "forward", forward)


def _attention_dropout_by_local_head() -> Any:
    """Attention dropout is drawn by the head's number on the rank."""
    original = Attention._core_with_dropout

    def core(self: Attention, *arguments: Any) -> Tensor:
        self.first_head = 0
        return original(self, *arguments)

    return mock.patch.object(Attention, "_core_with_dropout", core)


def _row_sum_missing() -> Any:
    """Row-parallel layers do not sum their partial results."""
    return mock.patch.object(Region, "sum_to_rows", lambda self, partial: self.local_rows(partial))


def _input_gradient_not_summed() -> Any:
    """Column-parallel layers do not sum the gradient of their input."""
    summed_async = Region.sum_to_rows_async

    def summed(self: Region, partial: Tensor) -> Tensor:
        rows, work = summed_async(self, partial)
        work.wait()
        return rows

    def unsummed(self: Region, partial: Tensor) -> tuple[Tensor, collectives.Handle]:
        return self.local_rows(partial), collectives.Done()

    return mock.patch.multiple(Region, sum_to_rows=summed, sum_to_rows_async=unsummed)


def _norm_gradients_not_summed() -> Any:
    """Under sequence parallelism the norms' gradients stay partial."""
    return mock.patch.object(Bucket, "partial_ranges", return_value={})


def _shared_key_heads_not_summed() -> Any:
    """A key head held by two ranks gets only one rank's gradient."""

    def nothing(self: Exchange, slot: Slot, gradients: Tensor) -> None:
        return None

    return mock.patch.object(Exchange, "_sum_shared_rows", nothing)


def _local_softmax() -> Any:
    """The softmax's denominator sums over the rank's own vocabulary."""
    original = cross_entropy.chunk_losses

    def losses(logits: Tensor, labels: Tensor, ours: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
        return original(logits, labels, ours, replace(axis, ranks=(0,), rank=0))

    return mock.patch.object(cross_entropy, "chunk_losses", losses)


def _bias_on_every_rank() -> Any:
    """The row-parallel bias is added by each rank before the sum."""
    original = linear._RowProduct.forward

    def forward(ctx: Any, x: Tensor, region: Region, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        rows = original(ctx, x, region, weight, bias, *how)
        return rows if bias is None else rows.add_(bias, alpha=region.axis.size - 1)

    return mock.patch.object(linear._RowProduct, "forward", staticmethod(forward))


def _same_samples_everywhere() -> Any:
    """Every data rank reads the first rank's samples."""

    def share(self: feed.Feed, step: int, batch_size: int) -> MicroBatch:
        per_rank = batch_size // self._mesh.dp.size
        return feed.to_device(
            self._objective(self._source.rows(step, 0, per_rank), reset_attention=self._reset_attention),
            self._mesh.device,
        )

    return mock.patch.object(feed.Feed, "_share", share)


def _init_by_rank() -> Any:
    """Replicated parameters are drawn differently on each tensor rank."""
    original = parameters.draw

    def draw(values: Tensor, spec: ParamSpec, stream: int, starts: Sequence[int]) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        original(values, spec, rng.key(stream, rank) if spec.split is None and rank else stream, starts)

    return mock.patch.object(parameters, "draw", draw)


def _ties_not_summed() -> Any:
    """The copies of a tied table on two stages keep only their own gradients."""
    original = Exchange.finish

    def finish(self: Exchange) -> None:
        self._copies = []
        original(self)

    return mock.patch.object(Exchange, "finish", finish)


def _tied_copy_counts() -> Any:
    """The gradient norm counts both copies of a tied table."""
    original = ParamSpec.owned_slices

    def owned(self: ParamSpec, positions: Mapping[str, int]) -> tuple[slice, ...] | None:
        return original(replace(self, tied_to=None), positions)

    return mock.patch.object(ParamSpec, "owned_slices", owned)


def _weight_half_dropped() -> Any:
    """The weight products of the first micro-batch are put off and forgotten."""
    original = Stage.backward_weight

    def backward_weight(self: Stage, number: int, block: int | None = None) -> None:
        if number:
            original(self, number, block)

    return mock.patch.object(Stage, "backward_weight", backward_weight)


def _gradient_sent_twice_as_large() -> Any:
    """What comes back from the next stage is doubled."""
    original = Transport.receive

    def receive(self: Transport, parcel: Parcel) -> dict[str, Tensor]:
        found = original(self, parcel)
        return {name: 2 * tensor for name, tensor in found.items()} if parcel.is_gradient else found

    return mock.patch.object(Transport, "receive", receive)


def _rows_sent_too_early() -> Any:
    """What flows to the next stage is changed after its send has begun."""
    original = Transport.send

    def send(self: Transport, flow: Tensor, peer: int, border: object) -> None:
        original(self, flow.detach().roll(1, 0).requires_grad_(), peer, border)

    return mock.patch.object(Transport, "send", send)


def _shares_not_published() -> Any:
    """After the update a rank keeps the old values of what other ranks own."""
    original = Exchange.publish

    def publish(self: Exchange) -> None:
        if not any(bucket.owned_gradients.any() for bucket in self._buckets):  # at the beginning of the run
            original(self)

    return mock.patch.object(Exchange, "publish", publish)


def _norm_of_own_shard() -> Any:
    """The gradient norm is not summed over the ranks that own other parts."""
    original = Optimizer.grad_norm

    def grad_norm(self: Optimizer) -> float:
        self._axes = self._axes[:1]
        return original(self)

    return mock.patch.object(Optimizer, "grad_norm", grad_norm)


def _last_share_only() -> Any:
    """A micro-batch's share of the gradients overwrites those before it."""
    original = Exchange._complete

    def complete(self: Exchange, running: Any) -> None:
        running.bucket.owned_gradients.zero_()
        original(self, running)

    return mock.patch.object(Exchange, "_complete", complete)


def _shards_drawn_alike() -> Any:
    """Every rank draws the first part of what it owns, wherever that lies."""
    original = parameters.initialize_box

    def draw(values: Tensor, spec: ParamSpec, seed: int, positions: Mapping[str, int], offsets: Sequence[int]) -> None:
        original(values, spec, seed, positions, [0] * len(offsets))

    return mock.patch.object(model, "initialize_box", draw)


def _stale_values() -> Any:
    """What a rank gathers is what was gathered in the step before."""
    original = Exchange._collect

    def collect(self: Exchange, bucket: Bucket) -> None:
        kept = vars(self).setdefault("stale", {}).setdefault(bucket, bucket.shard.clone())
        original(self, replace(bucket, shard=kept))
        self._gathering[bucket] = self._gathering.popitem()[1]

    return mock.patch.object(Exchange, "_collect", collect)


FAULTS: Mapping[str, Patch] = {
    "gradients not summed over dp": _no_data_sum,
    "gradients averaged twice": _averaged_twice,
    "one bucket never reduced": _one_bucket_forgotten,
    "norm counts replicas": _norm_counts_replicas,
    "norm not summed over tp": _norm_of_own_slices,
    "loss as mean of means": _mean_of_means,
    "only the last micro-batch learns": _last_microbatch_only,
    "query heads read wrong key heads": _wrong_key_heads,
    "wrong slice of q": _wrong_slice,
    "dropout by rank": _dropout_by_rank,
    "attention dropout by local head": _attention_dropout_by_local_head,
    "row-parallel sum missing": _row_sum_missing,
    "input gradient not summed": _input_gradient_not_summed,
    "norm gradients partial": _norm_gradients_not_summed,
    "shared key heads not summed": _shared_key_heads_not_summed,
    "softmax over the local vocabulary": _local_softmax,
    "bias added by every rank": _bias_on_every_rank,
    "same samples on every data rank": _same_samples_everywhere,
    "positions drawn by rank": _init_by_rank,
    "tied copies not summed": _ties_not_summed,
    "tied copy counted in the norm": _tied_copy_counts,
    "weight half dropped": _weight_half_dropped,
    "gradient doubled between stages": _gradient_sent_twice_as_large,
    "rows shifted between stages": _rows_sent_too_early,
    "updated shares not published": _shares_not_published,
    "norm of the own shard": _norm_of_own_shard,
    "only the last micro-batch's share": _last_share_only,
    "shards drawn alike": _shards_drawn_alike,
    "stale values gathered": _stale_values,
    **UPDATE_FAULTS,
    **RECOMPUTE_FAULTS,
    **OFFLOAD_FAULTS,
}


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant one of ``FAULTS`` in this process, or none."""
    if fault is None:
        yield
        return
    with FAULTS[fault](), torch.random.fork_rng(devices=[]):
        yield
