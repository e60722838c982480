"""Oracle: hadolint, shellcheck, compose and the config classes, each asked about the files that a user copies."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megalm.launcher.hostfile import read_hostfile
from megalm.run_config import RunConfig

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), *ROOT.glob("tools/*.sh"), ROOT / ".ci/run"])
COMPOSE = ROOT / "docker" / "compose.yaml"


def check(program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True)


def test_hadolint_has_nothing_to_say_of_the_dockerfile(tmp_path: Path) -> None:
    done = check("hadolint", ROOT / "docker" / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    planted = tmp_path / "Dockerfile"
    planted.write_text((ROOT / "docker" / "Dockerfile").read_text().replace('["tini", "--", "megalm"]', "megalm"))
    assert "DL3025" in check("hadolint", planted).stdout  # the form in which no signal arrives


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say_of_the_scripts(script: Path) -> None:
    done = check("shellcheck", script)
    assert (done.returncode, done.stdout) == (0, "")


def compose_says(path: Path) -> "subprocess.CompletedProcess[str]":
    if shutil.which("docker-compose") is None:
        pytest.skip("needs docker-compose: apt-get install docker-compose")
    return subprocess.run(["docker-compose", f"--file={path}", "config", "--quiet"], capture_output=True, text=True)


def test_compose_understands_every_key() -> None:
    done = compose_says(COMPOSE)
    assert done.returncode == 0, done.stderr


def test_compose_names_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    planted = tmp_path / "compose.yaml"
    planted.write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace:"))
    done = compose_says(planted)
    assert done.returncode != 0
    assert "stop_grace" in done.stderr


@pytest.mark.parametrize(("name", "num_ranks"), [("gpt2-355m-8gpu", 8), ("llama2-7b-4x8gpu", 32)])
def test_the_run_files_are_what_their_names_say(name: str, num_ranks: int) -> None:
    config = RunConfig.load(ROOT / "launch" / f"{name}.yaml")
    assert config.layout.world_size == num_ranks
    assert config.model.preset is not None
    assert name.startswith(config.model.preset)
    assert config.layout.tp <= 8


def test_every_run_file_is_looked_at() -> None:
    assert [path.stem for path in sorted((ROOT / "launch").glob("*.yaml"))] == ["gpt2-355m-8gpu", "llama2-7b-4x8gpu"]


def test_the_hostfile_has_room_for_the_larger_run() -> None:
    assert sum(host.slots for host in read_hostfile(ROOT / "launch" / "hostfile")) == 32


@pytest.mark.parametrize("script", ["torchrun.sh", "mpi.sh"])
def test_a_script_hands_its_words_on_and_nothing_else(script: str, tmp_path: Path) -> None:
    """Oracle: a stand-in for megalm that prints its arguments, a line each; and the file that a planted word makes."""
    megalm = tmp_path / "megalm"
    megalm.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    megalm.chmod(0o755)
    planted = f"run.dir=x; touch {tmp_path}/pwned; $(touch {tmp_path}/pwned)"
    words = {"torchrun.sh": ["a run.yaml", "2", "node 1"], "mpi.sh": ["a run.yaml", "a hostfile"]}[script]
    done = subprocess.run(
        [ROOT / "launch" / script, *words, planted], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, capture_output=True
    )
    options = [f"--{name}={word}" for name, word in zip(("nnodes", "rdzv-endpoint"), words[1:], strict=False)]
    if script == "mpi.sh":
        options = ["--hostfile=a hostfile"]
    launcher = script.removesuffix(".sh")
    assert done.stdout.decode().splitlines() == ["launch", launcher, *options, "--", "a run.yaml", planted]
    assert not (tmp_path / "pwned").exists()
    assert subprocess.run([ROOT / "launch" / script], capture_output=True).returncode == 2
