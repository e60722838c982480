"""One operation that is computed again in backward: neither what autograd saves in it nor its output is kept.

torch.utils.checkpoint forgets what an operation saves, but the product that reads its output still keeps that. Here
the reader forgets it too (Megatron-LM calls it output-discarding checkpointing), so that the operation's inputs are all
that is left. The graph is not built twice: only saved values are made again, when the first of them is asked for.
What is kept goes through the hooks around, so it may be offloaded, and counted.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from megalm.saved_tensors import Around, KeptTensor


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
    around = Around.here()
    values = _Values(operation, inputs, around)
    with saved_tensors_hooks(values.forget, values.again):
        output = operation(*inputs)
    read = _Read(values, output, around)
    with saved_tensors_hooks(read.forget, read.again):
        return reader(output)


class _Values:
    """What autograd saves in an operation, by the order in which it does, and the output after it."""

    def __init__(self, operation: Callable[..., Tensor], inputs: Sequence[Tensor], around: Around) -> None:
        self._operation = operation
        self._inputs = [(around.keep(tensor.detach()), tensor.requires_grad) for tensor in inputs]
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

            inputs = [kept.tensor().detach().requires_grad_(learns) for kept, learns in self._inputs]
            with torch.enable_grad(), saved_tensors_hooks(keep, lambda number: made[number]):
                output = self._operation(*inputs)
            if len(made) != self._count:
                raise RuntimeError(f"computed again, {self._operation} saved {len(made)} tensors, not {self._count}")
            made[self._count] = output.detach()
            self._made = made
        return self._made


class _Read:
    """What autograd saves in the reader: as it is, but for the output of the operation."""

    def __init__(self, values: _Values, output: Tensor, around: Around) -> None:
        self._values, self._around, self._place, self._shape = values, around, output.data_ptr(), output.shape

    def forget(self, tensor: Tensor) -> KeptTensor | None:
        is_output = tensor.data_ptr() == self._place and tensor.shape == self._shape
        return None if is_output else self._around.keep(tensor)

    def again(self, kept: KeptTensor | None) -> Tensor:
        return self._values.output() if kept is None else kept.tensor()
