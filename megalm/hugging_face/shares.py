"""Which slices of a model each rank of a layout takes out of a Hugging Face directory."""

from collections.abc import Iterator
from dataclasses import dataclass

from megalm.boxes import Box
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig
from megalm.training.held import Held
from megalm.training.model import whole_model
from megalm.training.programs import rank_of_stage


@dataclass(frozen=True)
class Share:
    """What one rank takes of one parameter.

    Args:
        spec: of the parameter.
        box: of the whole parameter.
    """

    spec: ParamSpec
    box: Box


class Shares:
    """The shares of all ranks of a layout, from the model's specs alone; data-parallel ranks have the same.

    Args:
        config: the run.

    Raises:
        UserError: the layout does not fit the model.
    """

    def __init__(self, config: RunConfig) -> None:
        """See the class."""
        model = whole_model(config.model, config.layout.tp)
        self.specs = {name: spec_of(parameter) for name, parameter in model.named_parameters()}
        self._blocks = model.blocks()  # type: ignore[operator]
        self._holders = rank_of_stage(config.pipeline, config.layout.pp, config.num_microbatches)
        self._spans = cut_into_stages(config, len(self._blocks), len(self._holders))

    def held(self, pp_rank: int, tp_rank: int) -> Iterator[Share]:
        """Yield what a rank holds: slices that ranks share are of each of them."""
        for spec in self._specs_of(pp_rank):
            slices = spec.local_slices({"tp": tp_rank})
            yield _share(spec, slices)

    def counted(self, pp_rank: int, tp_rank: int) -> Iterator[Share]:
        """Yield what a rank is the first to hold: over all ranks each element once, but for tied tables."""
        for spec in self._specs_of(pp_rank):
            local, owned = spec.local_slices({"tp": tp_rank}), spec.owned_slices({"tp": tp_rank})
            if owned is not None:
                pairs = zip(local, owned, strict=True)
                yield _share(spec, tuple(slice(at.start + own.start, at.start + own.stop) for at, own in pairs))

    def _specs_of(self, pp_rank: int) -> list[ParamSpec]:
        held = Held.of(self._blocks, self._spans, self._holders, pp_rank)
        return [spec_of(parameter) for parameter in held.parameters()]


def _share(spec: ParamSpec, slices: tuple[slice, ...]) -> Share:
    return Share(spec, Box(tuple(part.start for part in slices), tuple(part.stop - part.start for part in slices)))
