"""Oracle: LAMB written from the paper on whole parameters, of which ranks own slices and flat ranges."""

import pytest
import torch
from torch import Tensor, nn

from megalm.layout import Layout
from megalm.ledger import Entry, Ledger
from megalm.mesh import Mesh
from megalm.optim import layer_update
from megalm.optim.config import OptimizerConfig
from megalm.optim.lamb import Lamb
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import make_bucket
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import new_parameter
from tests.optim.drawn import draws, put_parts
from tests.optim.plain_lamb import plain_lamb
from tests.parallel.sums import sum_of
from tests.ranks import RankContext, RankPool

STEPS = 3


def specs(parts: int) -> list[ParamSpec]:
    zero = Init.constant(0.0)
    overlapping = tuple((start // 2, -(-stop // 2)) for start, stop in even_ranges(6, parts))
    return [
        ParamSpec((5, 30), zero, Split("tp", 0, even_ranges(5, parts)), name="column"),
        ParamSpec((3, 50), zero, Split("tp", 1, even_ranges(50, parts)), name="row"),
        ParamSpec((30,), zero, partial_over=("tp",), decay=False, name="norm"),
        ParamSpec((3, 21), zero, Split("tp", 0, overlapping), name="shared rows"),
        ParamSpec((2, 3, 2), zero, Split("tp", 1, overlapping), name="shared in the middle"),
        ParamSpec((2, 2), zero, Split("tp", 0, even_ranges(2, parts)), name="some ranks have none"),
        ParamSpec((7, 11), zero, name="replicated"),
        ParamSpec((40,), zero, decay=False, name="bias"),
        ParamSpec((6, 5), zero, tied_to="table", name="a copy on another stage"),
    ]


def updated(
    context: RankContext, layout: Layout, zero_stage: int, dtype: torch.dtype, piece: int
) -> tuple[list[tuple[str, tuple[int, ...], Tensor]], list[Entry]]:
    """Return the boxes that a rank owns, by where they begin in their parameter, and what the steps sent."""
    ledger = Ledger()
    mesh = Mesh.build(layout, ledger=ledger)
    positions = {"tp": mesh.tp.rank}
    shard, _ = mesh.shards(layout.dp if zero_stage else 1)
    parameters = [new_parameter(spec, positions) for spec in specs(layout.tp)]
    places = [[part.start for part in spec.local_slices(positions)] for spec in specs(layout.tp)]
    at = {spec.name: place for spec, place in zip(specs(layout.tp), places, strict=True)}
    buckets = [
        make_bucket(part, mesh.device, dtype, shard=shard, zero_stage=zero_stage if shard.size > 1 else 0)
        for part in (parameters[:4], [], parameters[4:])
    ]
    before = layer_update.PIECE
    layer_update.PIECE = piece
    optimizer = Optimizer(
        Lamb(OptimizerConfig(betas=[0.8, 0.95], weight_decay=0.3)),
        buckets,
        axes=[mesh.model, shard],
        holders=[mesh.tp, shard],
        positions=positions,
        clip_grad_norm=0.0,
    )
    layer_update.PIECE = before
    found = []
    for step in range(STEPS + 1):
        whole = {spec.name: draws(100 * step + n, *spec.shape) for n, spec in enumerate(specs(layout.tp))}
        for bucket in buckets:
            into = bucket.owned_gradients if step else bucket.owned_values
            put_parts(bucket, into, whole, positions)
        if step:
            optimizer.step(0.1 * step)
    for bucket in buckets:
        for owned in bucket.owned():
            place = at[owned.slot.spec.name]
            found.append((owned.slot.spec.name, owned.box.moved(place), owned.view(bucket.owned_values).clone()))
    return found, ledger.entries


def whole_parameters() -> dict[str, Tensor]:
    return {
        spec.name: plain_lamb(
            draws(n, *spec.shape),
            [(0.1 * step, draws(100 * step + n, *spec.shape)) for step in range(1, STEPS + 1)],
            betas=(0.8, 0.95),
            eps=1e-8,
            weight_decay=0.3,
        )
        for n, spec in enumerate(specs(1))
    }


CASES = [
    (Layout(), 0, 2**19),
    (Layout(dp=2), 0, 2**19),
    (Layout(dp=3), 1, 2**19),
    (Layout(tp=2), 0, 64),
    (Layout(tp=3), 0, 2**19),
    (Layout(dp=2, tp=2), 2, 64),
    (Layout(dp=2, tp=3), 3, 2**19),
    (Layout(dp=8), 1, 2**19),
]


@pytest.mark.parametrize(("layout", "zero_stage", "piece"), CASES)
def test_every_layout_has_the_ratios_of_whole_parameters(
    ranks: RankPool, layout: Layout, zero_stage: int, piece: int
) -> None:
    expected = whole_parameters()
    seen = {name: torch.zeros(values.shape) for name, values in expected.items()}
    for found, entries in ranks.run(layout.world_size, updated, layout, zero_stage, torch.float64, piece):
        for name, offsets, values in found:
            here = tuple(slice(start, start + size) for start, size in zip(offsets, values.shape, strict=True))
            torch.testing.assert_close(values, expected[name][here], rtol=1e-13, atol=1e-13)
            seen[name][here] += 1
        axes = [name for name, size in [("tp", layout.tp), ("dp_cp", layout.dp if zero_stage else 1)] if size > 1]
        assert [(entry.kind, entry.axis, entry.dtype, entry.scalar) for entry in entries] == [
            ("all_reduce", axis, "float64", True) for axis in axes
        ] * STEPS
        assert all(entry.payload <= 16 * len(expected) for entry in entries)
    assert all(count.min() > 0 for count in seen.values())


@pytest.mark.parametrize("layout", [Layout(dp=2), Layout(tp=2), Layout(dp=2, tp=3)])
def test_copies_stay_equal_bit_for_bit(ranks: RankPool, layout: Layout) -> None:
    first: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    copies = 0
    for found, _ in ranks.run(layout.world_size, updated, layout, 0, torch.float32, 64):
        for name, offsets, values in found:
            for place in torch.cartesian_prod(*(torch.arange(size) for size in values.shape)).view(-1, values.ndim):
                where = tuple(place.tolist())
                key = (name, tuple(start + here for start, here in zip(offsets, where, strict=True)))
                copies += key in first
                assert torch.equal(first.setdefault(key, values[where]), values[where]), key
    assert copies > 40


@pytest.mark.parametrize("width", range(1, 24))
def test_rows_that_two_ranks_share_are_updated_alike(width: int) -> None:
    """They end the slice of one rank and begin that of the other: no kernel may treat its last elements otherwise."""

    def updated_part(part: slice) -> Tensor:
        parameter = nn.Parameter(draws(1, 3 * width)[part])
        bucket = make_bucket([parameter], torch.device("cpu"), torch.float32)
        rule = Lamb(OptimizerConfig(weight_decay=0.3))
        optimizer = Optimizer(rule, [bucket], axes=[], holders=[], positions={}, clip_grad_norm=0.0)
        for step in range(20):
            sum_of(parameter).copy_(draws(2 + step, 3 * width)[part])
            optimizer.step(0.1)
        return parameter.detach()

    assert torch.equal(updated_part(slice(0, 2 * width))[width:], updated_part(slice(width, None))[:width])
