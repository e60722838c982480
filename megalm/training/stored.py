"""The tensors of a run that no optimizer changes, as one rank owns them."""

from collections.abc import Iterator

from torch import Tensor, nn

from megalm.boxes import Box
from megalm.parallel.data.stored import Stored
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.training.held import Held


def whole(spec: ParamSpec, tensor: Tensor) -> Stored:
    """Return a tensor of which this rank owns all that it holds."""
    return Stored(spec.name, spec, tensor.dtype, [(Box((0,) * tensor.dim(), tuple(tensor.shape)), tensor)])


def unlearned(model: nn.Module, held: Held) -> Iterator[Stored]:
    """Yield frozen parameters, and buffers that a user's own module declares persistent."""
    buffers = {id(buffer) for buffer in held.buffers()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in buffers:
            yield whole(ParamSpec(tuple(tensor.shape), name=name), tensor)
    for parameter in held.parameters():
        if not parameter.requires_grad:
            yield whole(spec_of(parameter), parameter.data)
