"""The names under which trackers show the keys of a metrics row."""

from types import MappingProxyType

from megalm.training.metrics import MEANS, TASK, Row

TRACKED_NAMES = MappingProxyType(
    {
        "loss": "train/loss",
        "val_loss": "val/loss",
        "val_accuracy": "val/accuracy",
        "val_f1": "val/f1",
        "penalty": "train/penalty",
        "grad_norm": "train/grad_norm",
        "lr": "train/lr",
        "tokens": "train/tokens",
        "tokens_per_s": "perf/tokens_per_s",
        "step_time_s": "perf/step_time_s",
        "memory_gib": "perf/memory_gib",
        "mfu": "perf/mfu",
    }
)


def tracked(row: Row) -> dict[str, float]:
    """Return the numbers of a row by their shown names, those of tasks by their own; what is not known is left out."""
    names = {key: key if key.startswith(TASK) else _of_mean(key) for key in row if key.startswith((TASK, *MEANS))}
    return {name: row[key] for key, name in {**TRACKED_NAMES, **names}.items() if row.get(key) is not None}


def _of_mean(key: str) -> str:
    return f"val/{key.removeprefix('val_')}" if key.startswith("val_") else f"train/{key}"
