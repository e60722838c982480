"""Parameters and the specs they carry: attaching, naming, drawing."""

from collections.abc import Iterable, Mapping

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
        draw(parameter, spec, rng.key("unnamed", int(torch.randint(2**62, (), device="cpu"))), positions)
    return parameter


def spec_of(parameter: nn.Parameter) -> ParamSpec:
    """Return the parameter's spec; one from a plain torch module is whole on every rank and keeps its own init."""
    spec: ParamSpec | None = getattr(parameter, "spec", None)
    return spec if spec is not None else ParamSpec(tuple(parameter.shape), decay=parameter.ndim > 1)


def name_parameters(model: nn.Module) -> None:
    """Write each parameter's path in the whole model into its spec."""
    for name, parameter in model.named_parameters():
        parameter.spec = spec_of(parameter).named(name)  # type: ignore[attr-defined]


@torch.no_grad()
def draw(parameter: Tensor, spec: ParamSpec, stream: int, positions: Mapping[str, int]) -> None:
    """Fill this rank's slice from ``stream``; what the whole parameter holds does not depend on how it is cut."""
    if spec.init.kind == "constant":
        parameter.fill_(spec.init.value)
    elif spec.init.kind == "normal":
        starts = [part.start for part in spec.local_slices(positions)]
        if parameter.ndim > 2:
            raise ValueError(f"{spec.name}: a normal init draws matrices and vectors, not {parameter.ndim} dims")
        matrix = parameter if parameter.ndim == 2 else parameter.unsqueeze(0)
        row_start, column_start = starts if parameter.ndim == 2 else (0, starts[0])
        rng.fill_normal(matrix, stream, spec.init.std, row_start, column_start)


def initialize(parameters: Iterable[nn.Parameter], seed: int, positions: Mapping[str, int]) -> None:
    """Draw each parameter from the stream named by (seed, parameter name); call ``name_parameters`` before."""
    for parameter in parameters:
        spec = spec_of(parameter)
        draw(parameter.data, spec, rng.key(seed, spec.name), positions)
