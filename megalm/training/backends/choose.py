"""Which foreign engine a run file names; each is imported when it is asked for."""

from collections.abc import Callable

from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import Foreign
from megalm.training.model import Part


def foreign(config: RunConfig, mesh: Mesh, part: Part, lr_schedule: Callable[[int], float]) -> Foreign:
    """Give a built model to the engine that ``zero.backend`` names.

    Args:
        config: the run; what the engine cannot do was refused when it was read.
        mesh: this rank's axes.
        part: the model, in memory of its own.
        lr_schedule: learning rate of a 0-based step.

    Raises:
        UserError: the engine's package is not installed, or the model does not fit it.
    """
    match config.zero.backend:
        case "fsdp2":
            from megalm.training.backends.fsdp2 import Fsdp2

            return Fsdp2(config, mesh, part, lr_schedule)
        case "deepspeed":
            from megalm.training.backends.deepspeed import DeepSpeed

            return DeepSpeed(config, mesh, part, lr_schedule)
        case "fairscale":
            from megalm.training.backends.fairscale import FullySharded, Oss

            return (Oss if config.zero.stage == 1 else FullySharded)(config, mesh, part, lr_schedule)
        case other:
            raise ValueError(f"{other} is no foreign engine")
