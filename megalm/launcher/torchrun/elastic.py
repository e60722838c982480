"""An elastic run: as many replicas of the model as the ranks that there are can hold."""

from dataclasses import dataclass

from megalm.errors import UserError
from megalm.run_config import RunConfig
from megalm.validation import validate


@dataclass(frozen=True)
class Fit:
    """How a run lies on the ranks of the moment.

    Args:
        config: the run with the ``layout.dp`` that fits.
        wanted: ``layout.dp`` of the run file.
        spare: ranks beyond the layout; they are the last ones, and wait.
    """

    config: RunConfig
    wanted: int
    spare: int

    def sentence(self) -> str:
        """Return what the log says of it."""
        told = f"elastic: dp={self.config.layout.dp} of {self.wanted}"
        return (
            f"{told}, {self.spare} of {self.config.layout.world_size + self.spare} ranks wait" if self.spare else told
        )


def fit(config: RunConfig, world_size: int) -> Fit:
    """Return the run with the largest dp, at most the run file's, that ``world_size`` ranks can hold.

    dp must divide the global batch, which stays the same, so that the run learns the same from the same samples; and
    it must leave the run file legal in all else.

    Args:
        config: an elastic run.
        world_size: ranks that there are.

    Raises:
        UserError: they cannot hold one replica.
    """
    layout = config.layout
    replica = layout.world_size // layout.dp
    if world_size < replica:
        raise UserError(
            f"one replica of the model needs pp x cp x tp = {layout.pp} x {layout.cp} x {layout.tp} = {replica} ranks, "
            f"but there are {world_size}; start more, or choose a smaller layout."
        )
    most = min(layout.dp, world_size // replica)
    for dp in range(most, 0, -1):
        found = _with_dp(config, dp)
        if found is not None:
            return Fit(found, layout.dp, world_size - dp * replica)
    raise UserError(
        f"no layout.dp from 1 to {most} fits the rest of the run file; look at zero.shard_size and layout.ep, or start "
        f"all {layout.world_size} ranks."
    )


def _with_dp(config: RunConfig, dp: int) -> RunConfig | None:
    """Return the run at another dp, or ``None`` where that is not legal."""
    if config.train.global_batch_size % dp:
        return None
    tree = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree["layout"]["dp"] = dp
    try:
        return validate(RunConfig, tree)
    except UserError:
        return None


def check_placed(config: RunConfig, world_size: int) -> Fit:
    """Return how the run lies on the ranks of a launcher: as its layout says, or elastic.

    Raises:
        UserError: the layout does not fit.
    """
    if config.run.elastic:
        return fit(config, world_size)
    config.layout.check(world_size)
    return Fit(config, config.layout.dp, 0)
