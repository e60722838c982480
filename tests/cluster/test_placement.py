"""Oracle: what a real Slurm starts, and the loss column of the same run by megalm's own launcher, bit for bit."""

import os
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm
from tests.reference import Reference
from tests.training.test_kills import ROOT, losses

PLACED = (
    "import os; from megalm.launcher.placement import from_environment; "
    "placed = from_environment(os.environ); print('placed', placed and placed.world_size)"
)
TWO_NODES = ("srun", "--nodes=2", "--ntasks-per-node=2")


def test_tasks_that_speak_pmi_agree_by_mpi(slurm: Slurm, reference: Reference, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install -c constraints.txt -e .[mpi]")
    done = slurm.controller.run(*TWO_NODES, "--mpi=pmi2", *reference.train(tmp_path), cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path) == reference.losses


def test_a_master_without_an_address_is_told_once(slurm: Slurm, reference: Reference, tmp_path: Path) -> None:
    env = {**os.environ, "MASTER_ADDR": "nowhere", "MASTER_PORT": "29500"}
    rank = reference.train(tmp_path, "run.timeout=3600")
    done = slurm.controller.run(*TWO_NODES, *rank, cwd=ROOT, env=env, timeout=240)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("megalm: ")]
    assert [line.split(" (")[0].rstrip("12") for line in told] == ["megalm: MASTER_ADDR=nowhere has no address on h"]


def test_ranks_that_are_dealt_in_turns_are_refused_by_all_and_told_by_one(
    slurm: Slurm, reference: Reference, tmp_path: Path
) -> None:
    step = (*TWO_NODES, "--distribution=cyclic")
    done = slurm.controller.run(*step, *reference.train(tmp_path), cwd=ROOT, timeout=240)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("megalm: ")]
    assert len(told) == 1
    assert "layout.tp=2 neighbouring ranks would lie on two machines (rank 0 is on h1, rank 1 on h2)" in told[0]


@pytest.mark.parametrize(
    "around",
    [
        ("srun", "--ntasks=1", "--cpus-per-task=4"),
        ("script", "--quiet", "--command", "srun --ntasks=1 --pty {}", "/dev/null"),
        ("salloc", "--quiet", "--ntasks=4"),
        ("salloc", "--quiet", "--ntasks=4", "srun", "--ntasks=1"),
        ("sbatch", "--quiet", "--wait", "--ntasks=4", "--output={out}", "--wrap={}"),
        ("srun", "--ntasks=2", "sbatch", "--quiet", "--wait", "--ntasks=4", "--output={out}", "--wrap={}"),
    ],
    ids=lambda words: " ".join(word for word in words if word.isalpha()),
)
def test_what_is_typed_in_a_job_starts_its_own_ranks(slurm: Slurm, around: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = f'{sys.executable} -c "{PLACED}"'
    words = [word.format(program, out=out) for word in around]
    command = words if words != list(around) else [*words, sys.executable, "-c", PLACED]
    done = slurm.controller.run(*command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = out.read_text() if out.exists() else done.stdout
    assert said.split()[-1] == "None", said


@pytest.mark.parametrize("kind", ["none", "pmi2"])
def test_a_step_of_several_tasks_is_never_worlds_of_one(slurm: Slurm, kind: str) -> None:
    done = slurm.controller.run(*TWO_NODES, f"--mpi={kind}", sys.executable, "-c", PLACED, cwd=ROOT, timeout=120)
    assert done.stdout.split() == ["placed", "4"] * 4, done.stderr


def test_slurm_gives_each_task_gpus_of_its_own_or_those_of_the_node(slurm: Slurm) -> None:
    """Oracle: ``CUDA_VISIBLE_DEVICES`` of each task, as Slurm sets it for the two styles."""
    told = ("sh", "-c", "echo $SLURM_LOCALID:$CUDA_VISIBLE_DEVICES")
    own = slurm.controller.run("srun", "--nodes=1", "--ntasks=2", "--gpus-per-task=1", *told, timeout=120)
    shared = slurm.controller.run("srun", "--nodes=1", "--ntasks=2", "--gpus-per-node=2", *told, timeout=120)
    assert sorted(own.stdout.split()) in (["0:0", "1:1"], ["0:0", "1:0"]), own.stderr
    assert sorted(shared.stdout.split()) == ["0:0,1", "1:0,1"], shared.stderr
