"""How a run's blocks are cut into stages: the builder and the drawing ask here, so what is planned is what runs."""

from collections.abc import Sequence

from megalm.parallel.pipeline.partition import partition
from megalm.plan.model_costs import model_costs
from megalm.run_config import RunConfig


def cut_into_stages(config: RunConfig, num_blocks: int, num_stages: int) -> list[range]:
    """Return the blocks of each stage: as the run file says, or balanced by what they compute.

    Args:
        config: the run.
        num_blocks: of the model. Where their work is not known on paper, as of a model of the user's own, they count
            alike.
        num_stages: of the pipeline.

    Raises:
        UserError: there are more stages than blocks, or the run file's sizes do not add up.
    """
    costs: Sequence[float] = [1.0] * num_blocks
    if (known := model_costs(config)) is not None:
        costs = [block.whole for block in known.blocks]
    sizes = config.pipeline.blocks_per_stage
    return partition(costs, num_stages, None if sizes == "auto" else sizes)
