"""Oracle: the same operations with everything kept, and the storages that are alive."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from megalm.mesh import Axis
from megalm.parallel.tensor.linear import RowParallelLinear
from megalm.parallel.tensor.recomputed import through
from tests.models.live_storages import LiveStorages

ROWS, WIDTH = 6, 8


def gated(gate: Tensor, up: Tensor) -> Tensor:
    return (F.silu(gate) * up).tanh()


def reader() -> RowParallelLinear:
    torch.manual_seed(0)
    return RowParallelLinear(WIDTH, 4, Axis.alone("tp")).double()


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("recompute", [False, True])
def test_value_and_gradients_are_those_of_what_is_kept(recompute: bool) -> None:
    layer, given, plain_layer, plain = reader(), inputs(), reader(), inputs()
    result = through(gated, given, layer, recompute=recompute)
    expected = plain_layer(gated(*plain))
    assert torch.equal(result, expected)
    result.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip([*given, *layer.parameters()], [*plain, *plain_layer.parameters()], strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_the_operations_own_parameters_learn() -> None:
    norms, results = [nn.LayerNorm(WIDTH, dtype=torch.float64) for _ in range(2)], []
    for norm, recompute in zip(norms, (False, True), strict=True):
        result = through(norm, inputs()[:1], reader(), recompute=recompute)
        result.square().sum().backward()
        results.append([parameter.grad for parameter in norm.parameters()])
    assert results[0][0] is not None
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize(("recompute", "tensors"), [(False, 3), (True, 0)])
def test_neither_what_it_saves_nor_its_output_is_kept(recompute: bool, tensors: int) -> None:
    """Beside the inputs: silu's result, the product of both, and tanh's result, which the reader reads."""
    layer, given = reader(), inputs()
    with LiveStorages() as live:
        result = through(gated, given, layer, recompute=recompute)
        assert live.bytes_beside(result, *given) == (tensors - 1 if tensors else 0) * ROWS * WIDTH * 8


def counting(calls: list[int]) -> Callable[..., Tensor]:
    def operation(gate: Tensor, up: Tensor) -> Tensor:
        calls.append(1)
        return gated(gate, up)

    return operation


def test_it_is_computed_again_once_however_much_is_saved() -> None:
    calls: list[int] = []
    result = through(counting(calls), inputs(), reader(), recompute=True)
    assert len(calls) == 1
    result.sum().backward()
    assert len(calls) == 2


def test_nothing_is_kept_where_nothing_is_learned() -> None:
    calls: list[int] = []
    with torch.no_grad():
        through(counting(calls), inputs(), reader(), recompute=True)
    assert len(calls) == 1


def test_what_is_kept_goes_through_the_hooks_around() -> None:
    """The two inputs, and what the reader saves beside the operation's output; all of it comes back."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> int:
        kept.append(tensor.clone())
        return len(kept) - 1

    layer, given, plain_layer, plain = reader(), inputs(), reader(), inputs()
    beside = torch.full((ROWS, WIDTH), 3.0, dtype=torch.float64, requires_grad=True)
    with saved_tensors_hooks(keep, lambda number: kept[number]):
        result = through(gated, given, lambda rows: layer(rows) + (beside * beside).sum(), recompute=True)
    assert [tensor.tolist() for tensor in kept] == [given[0].tolist(), given[1].tolist(), *[beside.tolist()] * 2]
    result.sum().backward()
    plain_layer(gated(*plain)).sum().backward()
    for ours, theirs in zip(given, plain, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
    assert beside.grad is not None
    assert torch.equal(beside.grad, 2 * ROWS * 4 * beside)


def test_an_operation_that_saves_something_else_the_second_time_is_told() -> None:
    calls: list[int] = []

    def changing(gate: Tensor, up: Tensor) -> Tensor:
        calls.append(1)
        return gated(gate, up) if len(calls) == 1 else gate + up

    result = through(changing, inputs(), reader(), recompute=True)
    with pytest.raises(RuntimeError, match=r"computed again, .* saved 0 tensors, not 4"):
        result.sum().backward()
