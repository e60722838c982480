"""Parameters and the specs they carry: attaching, naming, drawing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from megalm import rng
from megalm.param_spec import ParamSpec


def new_parameter(spec: ParamSpec, positions: Mapping[str, int]) -> nn.Parameter:
    """Make this rank's slice of a parameter, on the default device and in the default dtype.

    It is drawn at once, from a stream that torch's own generator names, so that a layer is usable by itself and two
    layers differ; ``initialize`` draws it again by its name.
    """
    parameter = nn.Parameter(torch.empty(spec.local_shape(positions)))
    parameter.spec = spec  # type: ignore[attr-defined]
    if not parameter.is_meta:
        stream = rng.key("unnamed", int(torch.randint(2**62, (), device="cpu")))
        draw(parameter, spec, stream, [part.start for part in spec.local_slices(positions)])
    return parameter


def spec_of(parameter: nn.Parameter) -> ParamSpec:
    """Return the parameter's spec; one from a plain torch module is whole on every rank and keeps its own init."""
    spec: ParamSpec | None = getattr(parameter, "spec", None)
    return spec if spec is not None else ParamSpec(tuple(parameter.shape), decay=parameter.ndim > 1)


def name_parameters(model: nn.Module) -> None:
    """Write each parameter's path in the whole model into its spec."""
    for name, parameter in model.named_parameters():
        parameter.spec = spec_of(parameter).named(name)  # type: ignore[attr-defined]


def count_blocks(blocks: Sequence[nn.Module]) -> None:
    """Write into each parameter's spec how many blocks come after its own; one in several blocks is of the first."""
    for from_end, block in enumerate(reversed(blocks)):
        for parameter in block.parameters():
            parameter.spec = replace(spec_of(parameter), blocks_from_end=from_end)  # type: ignore[attr-defined]


@torch.no_grad()
def draw(values: Tensor, spec: ParamSpec, stream: int, starts: Sequence[int]) -> None:
    """Fill a box of a parameter from ``stream``; what the whole parameter holds does not depend on how it is cut.

    Args:
        values: the box, overwritten unless the spec says that they are given.
        spec: of the parameter.
        stream: a ``rng.key``.
        starts: where the box begins in the whole parameter.
    """
    if spec.init.kind == "constant":
        values.fill_(spec.init.value)
    elif spec.init.kind == "normal":
        if values.ndim > 2:
            raise ValueError(f"{spec.name}: a normal init draws matrices and vectors, not {values.ndim} dims")
        matrix = values if values.ndim == 2 else values.unsqueeze(0)
        row_start, column_start = starts if values.ndim == 2 else (0, starts[0])
        rng.fill_normal(matrix, stream, spec.init.std, row_start, column_start)


def initialize(parameters: Iterable[nn.Parameter], seed: int, positions: Mapping[str, int]) -> None:
    """Draw this rank's slice of each parameter from the stream named by (seed, parameter name), once it is named."""
    for parameter in parameters:
        initialize_box(parameter.data, spec_of(parameter), seed, positions, [0] * parameter.dim())


def initialize_box(
    values: Tensor, spec: ParamSpec, seed: int, positions: Mapping[str, int], offsets: Sequence[int]
) -> None:
    """Draw a box of this rank's slice of a parameter; see ``initialize``.

    Args:
        values: the box, overwritten.
        spec: of the parameter.
        seed: of the run.
        positions: this rank's position on each axis that specs name.
        offsets: where the box begins in the slice.
    """
    starts = [part.start + offset for part, offset in zip(spec.local_slices(positions), offsets, strict=True)]
    draw(values, spec, rng.key(seed, spec.name), starts)
