"""Oracle: 8-bit AdamW written from the paper on whole parameters; and one process, to the bit."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from unittest import mock

import pytest
import torch
from torch import Tensor

from megalm.layout import Layout
from megalm.ledger import Entry, Ledger
from megalm.mesh import Mesh
from megalm.optim import quantized_state
from megalm.optim.adamw8bit import AdamW8bit
from megalm.optim.config import OptimizerConfig
from megalm.optim.dynamic_map import DynamicMap
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import make_bucket
from megalm.parallel.data.stored import of_bucket
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import new_parameter
from tests.optim.drawn import put_parts
from tests.optim.plain_adamw8bit import Plain, plain_adamw8bit
from tests.optim.test_dynamic_map import numbers_of
from tests.ranks import RankContext, RankPool
from tests.verify.faults import planted

STEPS = 3
Where = tuple[str, tuple[int, ...]]


def draws(seed: int, *shape: int) -> Tensor:
    """Return numbers of many magnitudes, as gradients are; of a matrix of seven rows small ones, and a row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(*shape, generator=generator, dtype=torch.float64)
    wide *= 10 ** torch.randn(*shape, generator=generator, dtype=torch.float64)
    if shape[0] == 7:
        wide *= 1e-9
        wide[3] = 0
    return wide


def specs(parts: int) -> list[ParamSpec]:
    zero = Init.constant(0.0)
    return [
        ParamSpec((5, 300), zero, Split("tp", 0, even_ranges(5, parts)), name="column"),
        ParamSpec((3, 700), zero, Split("tp", 1, even_ranges(700, parts)), name="row"),
        ParamSpec((30,), zero, partial_over=("tp",), decay=False, name="norm"),
        ParamSpec((2, 512), zero, Split("tp", 1, even_ranges(512, parts, 256)), name="cut between blocks"),
        ParamSpec((3, 21), zero, Split("tp", 0, overlapping(6, parts)), name="shared rows"),
        ParamSpec((2, 3, 290), zero, Split("tp", 2, overlapping(580, parts)), name="shared columns"),
        ParamSpec((2, 2), zero, Split("tp", 1, even_ranges(2, parts)), name="some ranks have none"),
        ParamSpec((7, 290), zero, name="replicated"),
        ParamSpec((40,), zero, decay=False, name="bias"),
        ParamSpec((33,), zero, decay=False, name="another bias"),
        ParamSpec((6, 270), zero, tied_to="table", name="a copy on another stage"),
    ]


def overlapping(size: int, parts: int) -> tuple[tuple[int, int], ...]:
    return tuple((start // 2, -(-stop // 2) + (stop < size)) for start, stop in even_ranges(size, parts))


@dataclass
class Seen:
    """What a rank has after the steps: by name and offsets in the whole tensor, and what the steps sent."""

    tensors: list[tuple[Where, Tensor]]
    entries: list[Entry]


def updated(
    context: RankContext | None,
    layout: Layout,
    zero_stage: int,
    dtype: torch.dtype,
    piece: int,
    fault: str | None = None,
) -> Seen:
    with planted(fault), mock.patch.object(quantized_state, "PIECE", piece):
        ledger = Ledger()
        mesh = Mesh.build(layout, ledger=ledger)
        positions = {"tp": mesh.tp.rank}
        shard, _ = mesh.shards(layout.dp if zero_stage else 1)
        parameters = [new_parameter(spec, positions) for spec in specs(layout.tp)]
        buckets = [
            make_bucket(part, mesh.device, dtype, shard=shard, zero_stage=zero_stage if shard.size > 1 else 0)
            for part in (parameters[:4], [], parameters[4:])
        ]
        optimizer = Optimizer(
            AdamW8bit(OptimizerConfig(betas=[0.8, 0.95], weight_decay=0.3)),
            buckets,
            axes=[mesh.model, shard],
            holders=[mesh.tp, shard],
            positions=positions,
            clip_grad_norm=0.0,
        )
        for step in range(STEPS + 1):
            whole = {spec.name: draws(100 * step + n, *spec.shape) for n, spec in enumerate(specs(layout.tp))}
            for bucket in buckets:
                into = bucket.owned_gradients if step else bucket.owned_values
                put_parts(bucket, into, whole, positions)
            if step:
                optimizer.step(0.1 * step)
        kept = [
            stored
            for bucket, state in zip(buckets, optimizer.state, strict=True)
            for stored in (*of_bucket(bucket, "values.", bucket.owned_values), *state.stored(""))
        ]
        found = []
        for each in kept:
            begins = [part.start for part in each.spec.local_slices(positions)]
            for box, values in (*each.boxes, *each.copies):
                found.append(((each.name, box.moved(begins)), values.clone()))
        return Seen(found, ledger.entries)


@cache
def alone(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return every whole tensor of one process."""
    return {name: values for (name, _), values in updated(None, Layout(), 0, dtype, 2**16).tensors}


@cache
def plain() -> dict[str, Plain]:
    return {
        spec.name: plain_adamw8bit(
            draws(n, *spec.shape),
            [(0.1 * step, draws(100 * step + n, *spec.shape)) for step in range(1, STEPS + 1)],
            betas=(0.8, 0.95),
            eps=1e-8,
            weight_decay=0.3,
        )
        for n, spec in enumerate(specs(1))
    }


def test_one_process_has_the_papers_values_and_moments() -> None:
    found = alone(torch.float64)
    for name, expected in plain().items():
        torch.testing.assert_close(found[f"values.{name}"], expected.values, rtol=1e-12, atol=1e-12)
        for moment, number in (("exp_avg", 0), ("exp_avg_sq", 1)):
            if expected.absmax:
                absmax = found[f"{moment}_absmax.{name}"]
                torch.testing.assert_close(absmax, expected.absmax[number], rtol=1e-7, atol=0)
                blocks = absmax.repeat_interleave(256, -1)[..., : expected.values.shape[-1]]
                codes = found[f"{moment}_codes.{name}"]
                numbers = numbers_of(DynamicMap(signed=moment == "exp_avg", device=codes.device), codes.flatten())
                kept = numbers.double().view(codes.shape) * blocks
            else:
                kept = found[f"{moment}.{name}"]
            torch.testing.assert_close(kept, expected.moments[number], rtol=1e-6, atol=1e-12)


CASES = [
    (Layout(dp=2), 0, 2**16),
    (Layout(dp=3), 1, 2**16),
    (Layout(tp=2), 0, 2**16),
    (Layout(tp=3), 0, 500),
    (Layout(dp=2, tp=2), 2, 1),
    (Layout(dp=2, tp=3), 3, 2**16),
    (Layout(dp=8), 1, 500),
]


def differing(
    ranks: RankPool, layout: Layout, zero_stage: int, dtype: torch.dtype, piece: int, fault: str | None = None
) -> list[str]:
    """Return what any rank has otherwise, in any bit, than one process, or what no rank has."""
    expected = alone(dtype)
    counts = {name: torch.zeros(values.shape) for name, values in expected.items()}
    wrong = []
    for seen in ranks.run(layout.world_size, updated, layout, zero_stage, dtype, piece, fault):
        for (name, offsets), values in seen.tensors:
            here = tuple(slice(start, start + size) for start, size in zip(offsets, values.shape, strict=True))
            counts[name][here] += 1
            if not torch.equal(values, expected[name][here]):
                wrong.append(name)
    return wrong + [name for name, count in counts.items() if not count.min()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layout", "zero_stage", "piece"), CASES)
def test_no_layout_changes_a_bit(
    ranks: RankPool, layout: Layout, zero_stage: int, piece: int, dtype: torch.dtype
) -> None:
    assert differing(ranks, layout, zero_stage, dtype, piece) == []


@pytest.mark.parametrize(
    ("fault", "layout", "zero_stage", "wrong"),
    [
        ("absmax of the own shard", Layout(dp=3), 1, "exp_avg_absmax.row"),
        ("absmax of the own slices", Layout(tp=2), 0, "exp_avg_absmax.row"),
        ("absmax of local blocks", Layout(tp=2), 0, "values.row"),
    ],
)
def test_a_fault_changes_the_result(ranks: RankPool, fault: str, layout: Layout, zero_stage: int, wrong: str) -> None:
    assert wrong in differing(ranks, layout, zero_stage, torch.float64, 2**16, fault)


def kept_by_several(ranks: list[Seen]) -> set[Where]:
    """Return the blocks of which several ranks keep the absmax."""
    counts: Counter[Where] = Counter()
    for rank in ranks:
        for (name, offsets), values in rank.tensors:
            if name.startswith("exp_avg_absmax."):
                places = (range(start, start + size) for start, size in zip(offsets, values.shape, strict=True))
                counts.update((name.partition(".")[2], place) for place in product(*places))
    return {block for block, count in counts.items() if count > 1}


CUT_BY_TWO: set[Where] = {
    *(("row", (row, 1)) for row in range(3)),  # at 350
    *(("shared columns", (*rows, 0)) for rows in product(range(2), range(3))),  # at 145 and 146
    *(("some ranks have none", (row, 0)) for row in range(2)),  # at 1
}
"""What two tensor ranks cut."""


@pytest.mark.parametrize("layout", [Layout(dp=3), Layout(tp=2), Layout(dp=4, tp=2)])
def test_an_update_sends_the_largest_of_each_cut_block_at_once(ranks: RankPool, layout: Layout) -> None:
    found = ranks.run(layout.world_size, updated, layout, int(layout.dp > 1), torch.float32, 2**16)
    by_model = CUT_BY_TWO if layout.tp > 1 else set()
    for rank, seen in enumerate(found):
        by_shares = kept_by_several([found[other] for other in layout.ranks_along(("dp",), rank)])
        assert by_shares or layout.dp == 1
        cut = [("tp", by_model), ("dp_cp", by_model | by_shares)]
        assert [(entry.kind, entry.axis, entry.payload, entry.scalar) for entry in seen.entries] == [
            ("all_reduce", axis, 2 * 4 * len(blocks), True)
            for axis, blocks in cut
            if getattr(layout, axis.partition("_")[0]) > 1
        ] * STEPS


def test_a_block_of_the_model_may_learn_slower() -> None:
    moved = []
    for lr, blocks_from_end in ((0.4, 2), (0.1, 0)):
        parameters = [new_parameter(replace(spec, blocks_from_end=blocks_from_end), {}) for spec in specs(1)[1:3]]
        bucket = make_bucket(parameters, torch.device("cpu"), torch.float64)
        optimizer = Optimizer(
            AdamW8bit(OptimizerConfig()),
            [bucket],
            axes=[],
            holders=[],
            positions={},
            layer_lr_decay=0.5,
            clip_grad_norm=0.0,
        )
        for n, owned in enumerate(bucket.owned()):
            owned.view(bucket.owned_gradients).copy_(draws(n, *owned.slot.spec.shape))
        optimizer.step(lr)
        moved.append(bucket.owned_values)
    torch.testing.assert_close(*moved, rtol=1e-15, atol=1e-15)
    assert moved[0].count_nonzero() == 3 * 700 + 30
