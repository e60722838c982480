"""Where the traces of a run lie. No torch."""

from pathlib import Path

FOLDER = "trace"


def file_of(run_dir: Path, rank: int) -> Path:
    """Return where the trace of a rank lies: ``RUN_DIR/trace/rank-00003.jsonl``."""
    return run_dir / FOLDER / f"rank-{rank:05}.jsonl"


def files_in(run_dir: Path) -> dict[int, Path]:
    """Return the traces of a run by rank."""
    found = sorted((run_dir / FOLDER).glob("rank-*.jsonl"))
    return {int(file.stem.removeprefix("rank-")): file for file in found}
