"""The names under which trackers show the keys of a metrics row."""

from types import MappingProxyType

from megalm.training.metrics import Row

TRACKED_NAMES = MappingProxyType(
    {
        "loss": "train/loss",
        "val_loss": "val/loss",
        "val_accuracy": "val/accuracy",
        "val_f1": "val/f1",
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
    """Return the numbers of a row by their shown names; what the row does not know is left out."""
    return {name: row[key] for key, name in TRACKED_NAMES.items() if row.get(key) is not None}
