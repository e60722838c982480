"""One operation that is computed again in backward: neither what autograd saves in it nor its output is kept.

torch.utils.checkpoint forgets what an operation saves, but the product that reads its output still keeps that. Here
the reader forgets it too (Megatron-LM calls it output-discarding checkpointing), so that the operation's inputs are all
that is left. The graph is not built twice: only saved values are made again, when the first of them is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def through(
    operation: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    reader: Callable[[Tensor], Tensor],
    *,
    recompute: bool,
) -> Tensor:
    """Return ``reader(operation(*inputs))``.

    Args:
        operation: gives the same for the same inputs, communicates nothing, and changes nothing in place.
        inputs: what is kept.
        reader: what uses the operation's output; what it saves beside that is kept.
        recompute: whether the operation is computed again in backward, which goes through the graph once.
    """
    if not recompute:
        return reader(operation(*inputs))
    pack, unpack = _hooks_around()
    values = _Values(operation, inputs, pack, unpack)
    with saved_tensors_hooks(values.forget, values.again):
        output = operation(*inputs)
    read = _Read(values, output, pack, unpack)
    with saved_tensors_hooks(read.forget, read.again):
        return reader(output)


Pack = Callable[[Tensor], Any]
"""Keeps a saved tensor."""
Unpack = Callable[[Any], Tensor]
"""Gives it back."""


def _hooks_around() -> tuple[Pack, Unpack]:
    """Return the hooks of saved tensors in which this runs: what is kept here is theirs, and may be offloaded."""
    hooks: tuple[Pack, Unpack] | None = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks or (lambda tensor: tensor, lambda tensor: tensor)


class _Values:
    """What autograd saves in an operation, by the order in which it does, and the output after it."""

    def __init__(self, operation: Callable[..., Tensor], inputs: Sequence[Tensor], pack: Pack, unpack: Unpack) -> None:
        self._operation = operation
        self._inputs = [(pack(tensor.detach()), tensor.requires_grad) for tensor in inputs]
        self._unpack = unpack
        self._count = 0
        self._made: dict[int, Tensor] | None = None

    def forget(self, _: Tensor) -> int:
        self._count += 1
        return self._count - 1

    def again(self, number: int) -> Tensor:
        return self.made().pop(number)

    def output(self) -> Tensor:
        return self.made()[self._count]

    def made(self) -> dict[int, Tensor]:
        if self._made is None:
            made: dict[int, Tensor] = {}

            def keep(tensor: Tensor) -> int:
                made[len(made)] = tensor.detach()
                return len(made) - 1

            inputs = [self._unpack(kept).detach().requires_grad_(learns) for kept, learns in self._inputs]
            with torch.enable_grad(), saved_tensors_hooks(keep, lambda number: made[number]):
                output = self._operation(*inputs)
            if len(made) != self._count:
                raise RuntimeError(f"computed again, {self._operation} saved {len(made)} tensors, not {self._count}")
            made[self._count] = output.detach()
            self._made = made
        return self._made


class _Read:
    """What autograd saves in the reader: as it is, but for the output of the operation."""

    def __init__(self, values: _Values, output: Tensor, pack: Pack, unpack: Unpack) -> None:
        self._values, self._place, self._shape = values, output.data_ptr(), output.shape
        self._pack, self._unpack = pack, unpack

    def forget(self, tensor: Tensor) -> Any:
        is_output = tensor.data_ptr() == self._place and tensor.shape == self._shape
        return None if is_output else self._pack(tensor)

    def again(self, kept: Any) -> Tensor:
        return self._values.output() if kept is None else self._unpack(kept)
