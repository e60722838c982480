"""Where the traces of a run lie. No torch."""

from pathlib import Path

FOLDER = "trace"


def file_of(run_dir: Path, rank: int) -> Path:
    """Return where the trace of a rank lies: ``RUN_DIR/trace/rank-00003.jsonl``."""
    return run_dir / FOLDER / f"rank-{rank:05}.jsonl"


def files_in(run_dir: Path, world_size: int) -> dict[int, Path]:
    """Return the traces of a run by rank; what an earlier, larger layout left behind is not among them."""
    files = {rank: file_of(run_dir, rank) for rank in range(world_size)}
    return {rank: file for rank, file in files.items() if file.exists()}
