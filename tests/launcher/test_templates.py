"""Oracle: the files of ``launch/`` of this checkout, seen by a megalm that is built to be installed elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.templates import read, template

ROOT = Path(__file__).parents[2]


def test_a_built_package_has_the_files_of_launch(tmp_path: Path) -> None:
    source, built = tmp_path / "source", tmp_path / "built"
    for name in ("megalm", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "setup.py", "-q", "build", f"--build-lib={built}"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    program = "import megalm.launcher.templates as t; print(t.__file__); print(t.template('slurm.sbatch'), end='')"
    env = {**os.environ, "PYTHONPATH": str(built)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    place, _, text = done.stdout.partition("\n")
    assert place.startswith(str(built))
    assert text == (ROOT / "launch" / "slurm.sbatch").read_text()


def test_what_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="launch/gone is missing from this installation"):
        template("gone")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "gone")
