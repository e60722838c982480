"""``model.from``: a Hugging Face directory's weights into a model of any layout, each rank its own slices."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from megalm.checkpoint.peers import Peers
from megalm.checkpoint.piece import Piece
from megalm.hugging_face.counterpart import counterpart
from megalm.hugging_face.weights import Weights
from megalm.models.config import ModelConfig
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.model import whole_specs
from megalm.training.resume import local_pieces


def open_weights(directory: Path, config: ModelConfig, specs: Mapping[str, ParamSpec] | None = None) -> Weights:
    """Open a directory as the weights of a model.

    Args:
        directory: Hugging Face's.
        config: the model section.
        specs: the model's parameters by name, if they are known already.

    Raises:
        UserError: it does not hold this model, whole.
    """
    return Weights(directory, counterpart(config, specs or whole_specs(config)))


def load_weights(state: Backend, config: RunConfig) -> None:
    """Fill what this rank owns from ``model.from``, and give it to the ranks that keep it; every rank calls this.

    Raises:
        UserError: the directory does not hold the model; on all ranks, if on one.
    """
    assert config.model.from_ is not None
    directory = Path(config.model.from_)
    pieces = local_pieces(state, weights_only=True)
    peers = Peers(state.mesh.world, state.mesh.timeout_s, "the weights of model.from")
    peers.together(lambda: open_weights(directory, config.model).read_into(pieces))
    state.loaded()


def fill_parameters(parameters: Iterable[nn.Parameter], positions: Mapping[str, int], config: ModelConfig) -> None:
    """Fill the slices of parameters that stand in no engine from ``model.from``.

    Args:
        parameters: with memory and named specs.
        positions: this rank's position on each axis that specs name.
        config: the model section.
    """
    assert config.from_ is not None
    weights = open_weights(Path(config.from_), config)
    weights.read_into({spec_of(each).name: _slice(each, positions) for each in parameters})


def _slice(parameter: nn.Parameter, positions: Mapping[str, int]) -> Piece:
    spec = spec_of(parameter)
    starts = tuple(part.start for part in spec.local_slices(positions))
    return Piece(spec.shape, parameter.dtype, ((starts, parameter.data),))
