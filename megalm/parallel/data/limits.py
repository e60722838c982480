"""What the engines behind ``zero.backend`` can do; a run that asks for more is refused before it starts."""

from collections.abc import Mapping

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.parallel.data.config import ZeroConfig

STAGES: Mapping[str, Mapping[int, str]] = {
    "fsdp2": {2: "keeps gathered values", 3: "gives them back"},
    "deepspeed": {0: "everything whole", 1: "optimizer state", 2: "gradients too", 3: "parameters too"},
    "fairscale": {1: "optimizer state", 3: "parameters too"},
}
"""The stages that each foreign engine has."""


def check_backend(zero: ZeroConfig, layout: Layout, others: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    """Refuse what a foreign engine cannot do.

    Args:
        zero: the section that names the engine.
        layout: of the run.
        others: by key of the run file its value, and the values with which a foreign engine works.

    Raises:
        UserError: one sentence, with what to do.
    """
    backend = zero.backend
    _check_offload(zero)
    if backend == "native":
        return
    if zero.stage not in STAGES[backend]:
        stages = " or ".join(str(stage) for stage in STAGES[backend])
        raise UserError(f"zero.backend={backend} has no stage {zero.stage}; set zero.stage={stages}, or use native.")
    for axis in ("pp", "cp", "ep"):
        if getattr(layout, axis) > 1:
            raise UserError(f"zero.backend={backend} needs layout.{axis}=1; set it, or use zero.backend=native.")
    if layout.dp == 1:
        raise UserError(f"zero.backend={backend} needs layout.dp of 2 or more; with one data rank use native.")
    if zero.shard_size is not None:
        raise UserError(
            f"zero.backend={backend} shares over all data ranks; leave zero.shard_size=null, or use native."
        )
    for key, (value, allowed) in others.items():
        if value not in allowed:
            raise UserError(
                f"zero.backend={backend} does not work with {key}={value}; set {key}={' or '.join(allowed)}, or use "
                "zero.backend=native."
            )


def _check_offload(zero: ZeroConfig) -> None:
    stages = {"native": (0, 1, 2, 3), "deepspeed": (1, 2, 3)}.get(zero.backend, ())
    if zero.offload == "cpu" and zero.stage not in stages:
        raise UserError(
            f"zero.offload=cpu does not work with zero.backend={zero.backend} and zero.stage={zero.stage}; leave it at "
            "none, or use native, or deepspeed with stage 1, 2 or 3."
        )
    if zero.offload == "nvme" and (zero.backend, zero.stage) != ("deepspeed", 3):
        raise UserError(
            f"zero.offload=nvme does not work with zero.backend={zero.backend} and zero.stage={zero.stage}; set "
            "zero.backend=deepspeed and zero.stage=3, or zero.offload=cpu."
        )
    if zero.offload == "nvme" and zero.offload_path is None:
        raise UserError(
            f"zero.backend={zero.backend} with zero.offload=nvme needs a directory for its files; set "
            "zero.offload_path to one of each node's local disk."
        )
