"""Oracle: the job that was written; and no job where the file is absent or torn."""

from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.job import FILE, Job


def test_the_newest_job_is_read_back(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "a"
    assert Job.read(run_dir) is None
    Job("local", "12", "h1").write(run_dir)
    Job("slurm", "77", "h0", "slurm-77.log").write(run_dir)
    assert Job.read(run_dir) == Job("slurm", "77", "h0", "slurm-77.log")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"launcher": "local"}'])
def test_what_is_no_job_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    assert Job.read(tmp_path) is None


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another run"):
        Job("local", "12", "h1").write(tmp_path / "file" / "run")
