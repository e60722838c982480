"""Whole parameters cut for a rank, and what the ranks made put together again by the specs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megalm.layout import Layout
from megalm.ledger import Ledger
from megalm.mesh import Axis, Mesh
from megalm.parallel.tensor.region import Region
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from tests.parallel.sums import give_sum, sum_of
from tests.ranks import RankContext


@dataclass
class Found:
    """What one rank computed.

    Args:
        out: this rank's part of the result.
        dx: this rank's part of the input's gradient.
        gradients: its part of each parameter's gradient, by name.
        specs: what it knows of each parameter.
    """

    out: Tensor
    dx: Tensor | None
    gradients: dict[str, Tensor]
    specs: dict[str, ParamSpec]


def tensor_axis(context: RankContext, ledger: Ledger | None = None) -> Axis:
    """Return the tensor axis over all ranks of the call."""
    return Mesh.build(Layout(tp=context.num_ranks), ledger=ledger).tp


def random(*shape: int, seed: int = 0) -> Tensor:
    """Draw a float64 tensor, the same on every rank."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def load(layer: nn.Module, wholes: Mapping[str, Tensor], axis: Axis, *, buffered: bool) -> None:
    """Give each parameter its slice of a whole tensor in float64, and a buffer for its gradients if asked for."""
    layer.double()
    for name, parameter in layer.named_parameters():
        part = spec_of(parameter).local_slices({axis.name: axis.rank})
        parameter.data.copy_(wholes[name][part])
        if buffered:
            give_sum(parameter, torch.zeros_like(parameter.data))


def gather(layer: nn.Module, out: Tensor, x: Tensor | None, *, buffered: bool) -> Found:
    """Collect this rank's part of everything after a backward; unbuffered gradients must be nowhere else."""
    gradients = {}
    for name, parameter in layer.named_parameters():
        found = sum_of(parameter) if buffered else parameter.grad
        assert not buffered or parameter.grad is None
        if found is not None:
            gradients[name] = found
    specs = {name: spec_of(parameter) for name, parameter in layer.named_parameters()}
    return Found(out.detach(), None if x is None else x.grad, gradients, specs)


def local_leaf(region: Region, whole: Tensor) -> Tensor:
    """Return this rank's rows as a leaf that wants a gradient."""
    return region.local_rows(whole).clone().requires_grad_()


def whole_rows(parts: Sequence[Tensor], num_tokens: int, *, cut: bool) -> Tensor:
    """Put the ranks' rows together: those of all ranks if they are cut, else each rank has all of them."""
    if cut:
        return torch.cat(list(parts))[:num_tokens]
    for part in parts[1:]:
        assert torch.equal(part, parts[0])
    return parts[0]


def whole_gradient(found: Sequence[Found], name: str) -> Tensor:
    """Put a parameter's gradient together from the ranks' parts, as its spec says."""
    spec = found[0].specs[name]
    parts = [one.gradients[name] for one in found]
    if spec.split is None and not spec.partial_over:
        return whole_rows(parts, spec.shape[0], cut=False)
    total = torch.zeros(spec.shape, dtype=parts[0].dtype)
    for rank, part in enumerate(parts):
        total[spec.local_slices({"tp": rank})] += part
    return total


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def assert_gradients(found: Sequence[Found], wanted: Mapping[str, Tensor | None]) -> None:
    """Every parameter has its gradient, and no other has one."""
    assert set(found[0].gradients) == {name for name, gradient in wanted.items() if gradient is not None}
    for name, gradient in wanted.items():
        if gradient is not None:
            assert_close(whole_gradient(found, name), gradient)


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the gradients that autograd made, by name."""
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def columns(parts: Iterable[Tensor], num_tokens: int) -> Tensor:
    """Put the ranks' columns together, without the padding rows."""
    return torch.cat([part[:num_tokens] for part in parts], 1)
