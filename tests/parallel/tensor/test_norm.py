"""Oracle: torch.nn.LayerNorm and torch.nn.RMSNorm with autograd in float64, on one process."""

import pytest
import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.parallel.tensor.norm import LayerNorm, RMSNorm
from megalm.parallel.tensor.region import Region
from megalm.parameters import spec_of
from tests.parallel.tensor import slices
from tests.parallel.tensor.slices import Found
from tests.ranks import RankContext, RankPool

HIDDEN, EPS = 6, 1e-3
KINDS = ("layer", "rms")


def wholes() -> dict[str, Tensor]:
    return {"weight": slices.random(HIDDEN, seed=1), "bias": slices.random(HIDDEN, seed=2)}


def norms(context: RankContext, sequence_parallel: bool) -> list[Found]:
    axis = slices.tensor_axis(context)
    region = Region(axis, sequence_parallel)
    found = []
    for kind in KINDS:
        norm = LayerNorm if kind == "layer" else RMSNorm
        layer = norm(HIDDEN, axis, eps=EPS, sequence_parallel=sequence_parallel)
        slices.load(layer, wholes(), axis, buffered=False)
        x = slices.local_leaf(region, slices.random(5, HIDDEN, seed=5))
        out = layer(x)
        out.backward(region.local_rows(slices.random(5, HIDDEN, seed=6)))
        found.append(slices.gather(layer, out, x, buffered=False))
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_norms_are_torchs(ranks: RankPool, size: int, sequence_parallel: bool) -> None:
    for kind, *found in zip(KINDS, *ranks.run(size, norms, sequence_parallel), strict=True):
        plain: nn.Module = nn.LayerNorm(HIDDEN, eps=EPS) if kind == "layer" else nn.RMSNorm(HIDDEN, eps=EPS)
        slices.load(plain, wholes(), Axis.alone(), buffered=False)
        x = slices.random(5, HIDDEN, seed=5).requires_grad_()
        out = plain(x)
        out.backward(slices.random(5, HIDDEN, seed=6))
        assert x.grad is not None
        cut = sequence_parallel
        slices.assert_close(slices.whole_rows([one.out for one in found], 5, cut=cut), out.detach())
        slices.assert_close(slices.whole_rows([one.dx for one in found if one.dx is not None], 5, cut=cut), x.grad)
        slices.assert_gradients(found, slices.gradients_of(plain))


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norms_start_at_one_do_not_decay_and_know_what_their_gradient_is(norm: type[LayerNorm | RMSNorm]) -> None:
    tp = Axis("tp", (0, 1), 1)
    for sequence_parallel, partial_over in ((False, ()), (True, ("tp",))):
        layer = norm(HIDDEN, tp, sequence_parallel=sequence_parallel)
        assert (layer.weight == 1).all()
        for parameter in layer.parameters():
            spec = spec_of(parameter)
            assert (spec.decay, spec.partial_over, spec.split) == (False, partial_over, None)
    assert torch.equal(LayerNorm(HIDDEN, tp).bias, torch.zeros(HIDDEN))
