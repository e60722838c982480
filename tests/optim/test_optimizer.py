"""Oracle: torch.optim.AdamW with parameter groups, clip_grad_norm_, and the norm of the whole gradient."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from megalm.layout import Layout
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis, Mesh
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import Bucket, make_bucket
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import new_parameter
from tests.optim.drawn import draws
from tests.parallel.sums import sum_of
from tests.ranks import RankContext, RankPool

CPU = torch.device("cpu")
SHAPES = ((4, 3), (3,), (2, 5), (7,), (1, 1))


def plain_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(draws(100 + n, *shape)) for n, shape in enumerate(SHAPES)]


def optimizer_of(buckets: list[Bucket], clip_grad_norm: float) -> Optimizer:
    rule = AdamW(OptimizerConfig(betas=[0.8, 0.95], weight_decay=0.3))
    return Optimizer(rule, buckets, axes=[Axis.alone()], holders=[], positions={"tp": 0}, clip_grad_norm=clip_grad_norm)


@pytest.mark.parametrize("clip_grad_norm", [0.0, 1.0, 1000.0])
def test_20_steps_are_torchs(clip_grad_norm: float) -> None:
    plain, moved = plain_parameters(), plain_parameters()
    groups = [
        {"params": [p for p in plain if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in plain if p.ndim == 1], "weight_decay": 0.0},
    ]
    expected = torch.optim.AdamW(groups, betas=(0.8, 0.95), foreach=False)
    buckets = [make_bucket(part, CPU, torch.float64) for part in (moved[:3], [], moved[3:])]
    optimizer = optimizer_of(buckets, clip_grad_norm)
    for step in range(20):
        lr = 0.01 * (step + 1)
        for group in expected.param_groups:
            group["lr"] = lr
        for n, (one, other) in enumerate(zip(plain, moved, strict=True)):
            one.grad = draws(10 * step + n, *one.shape)
            sum_of(other).copy_(one.grad)
        norm = clip_grad_norm_(plain, clip_grad_norm or math.inf, foreach=False).item()
        expected.step()
        assert optimizer.clip() == pytest.approx(norm, rel=1e-14)
        optimizer.step(lr)
    assert optimizer.updates == 20
    torch.testing.assert_close(moved, plain, rtol=1e-14, atol=1e-14)


def test_clipping_scales_to_the_norm_and_leaves_smaller_ones_alone() -> None:
    bucket = make_bucket([nn.Parameter(torch.zeros(2))], CPU, torch.float64)
    optimizer = optimizer_of([bucket], clip_grad_norm=1.0)
    bucket.gradients.tensor[:2] = torch.tensor([3.0, 4.0])
    assert optimizer.clip() == 5
    assert optimizer.grad_norm() == pytest.approx(1, abs=1e-6)
    bucket.gradients.tensor[:2] = torch.tensor([0.3, 0.4], dtype=torch.float64)
    assert optimizer.clip() == pytest.approx(0.5)
    assert bucket.gradients.tensor[:2].tolist() == [0.3, 0.4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_told_and_scales_nothing(bad: float) -> None:
    bucket = make_bucket([nn.Parameter(torch.zeros(2))], CPU, torch.float64)
    bucket.gradients.tensor[:2] = torch.tensor([bad, 4.0])
    assert not math.isfinite(optimizer_of([bucket], clip_grad_norm=1.0).clip())
    assert bucket.gradients.tensor[1] == 4


def test_without_a_parameter_the_norm_is_0() -> None:
    optimizer = optimizer_of([make_bucket([], CPU, torch.float64)], clip_grad_norm=1.0)
    assert optimizer.clip() == 0
    optimizer.step(0.1)


def test_the_state_has_a_tensor_for_each_name_of_the_rule() -> None:
    bucket = make_bucket(plain_parameters(), CPU, torch.float32)
    (state,) = optimizer_of([bucket], 0.0).state
    assert set(state) == {"exp_avg", "exp_avg_sq"}
    for tensor in state.values():
        assert torch.equal(tensor, torch.zeros_like(bucket.values.tensor))


def specs(parts: int) -> list[ParamSpec]:
    zero = Init.constant(0.0)
    overlapping = tuple((start // 2, -(-stop // 2)) for start, stop in even_ranges(6, parts))
    return [
        ParamSpec((5, 3), zero, Split("tp", 0, even_ranges(5, parts)), name="column"),
        ParamSpec((3, 5), zero, Split("tp", 1, even_ranges(5, parts)), name="row"),
        ParamSpec((3,), zero, partial_over=("tp",), decay=False, name="norm"),
        ParamSpec((3, 2), zero, Split("tp", 0, overlapping), name="key"),
        ParamSpec((2, 2), zero, Split("tp", 0, even_ranges(2, parts)), name="some ranks have none"),
    ]


def norm_of(context: RankContext, layout: Layout) -> tuple[float, list[Entry]]:
    """Return the norm by a rank of a layout whose pipeline stages hold other parameters."""
    ledger = Ledger()
    mesh = Mesh.build(layout, ledger=ledger)
    positions = {"tp": mesh.tp.rank}
    parameters = [new_parameter(spec, positions) for spec in specs(layout.tp)]
    bucket = make_bucket(parameters, CPU, torch.float64)
    for n, slot in enumerate(bucket.slots):
        whole = draws(50 * mesh.pp.rank + n, *slot.spec.shape)
        slot.view(bucket.gradients.tensor).copy_(whole[slot.spec.local_slices(positions)])
    rule = AdamW(OptimizerConfig())
    optimizer = Optimizer(rule, [bucket], axes=[mesh.model], holders=[], positions=positions, clip_grad_norm=0.0)
    return optimizer.grad_norm(), ledger.entries


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(tp=3), Layout(dp=2, tp=2), Layout(pp=2, tp=2), Layout(pp=2)])
def test_the_norm_counts_every_element_of_every_parameter_once(ranks: RankPool, layout: Layout) -> None:
    order = [slot.spec for slot in make_bucket([new_parameter(s, {}) for s in specs(1)], CPU, torch.float64).slots]
    wholes = [draws(50 * stage + n, *spec.shape) for stage in range(layout.pp) for n, spec in enumerate(order)]
    norm = torch.linalg.vector_norm(torch.cat([whole.flatten() for whole in wholes])).item()
    found = ranks.run(layout.world_size, norm_of, layout)
    assert len({value for value, _ in found}) == 1
    assert found[0][0] == pytest.approx(norm, rel=1e-14)
    assert all(entries == [Entry("all_reduce", "pp_tp", "float64", 8, scalar=True)] for _, entries in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_copy_is_updated_alike_whatever_lies_beside_it(dtype: torch.dtype) -> None:
    """A replicated parameter has other neighbours on each tensor rank; its copies must stay bitwise equal."""

    def updated(neighbour: int) -> list[Tensor]:
        parameters = [nn.Parameter(draws(1, neighbour)), nn.Parameter(draws(2, 11)), nn.Parameter(draws(3, neighbour))]
        bucket = make_bucket(parameters, CPU, dtype)
        optimizer = optimizer_of([bucket], 0.0)
        slot = next(slot for slot in bucket.slots if slot.parameter is parameters[1])
        for step in range(5):
            slot.view(bucket.gradients.tensor).copy_(draws(10 + step, 11))
            optimizer.step(0.01)
        return [slot.view(flat).clone() for flat in (bucket.values.tensor, *optimizer.state[0].values())]

    for neighbour in range(1, 20):
        assert all(torch.equal(one, other) for one, other in zip(updated(neighbour), updated(64), strict=True))
