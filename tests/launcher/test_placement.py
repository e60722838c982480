"""Oracle: the variables that each launcher sets, written down from running it (torchrun, srun, mpirun of two kinds)."""

from collections.abc import Mapping

import pytest

from megalm.errors import UserError
from megalm.launcher import placement as placement_module
from megalm.launcher.placement import Placement, from_environment, is_alone_here

MEETING = {"MASTER_ADDR": "h0", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEETING}
ALLOCATION = {"SLURM_JOB_ID": "1000", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {
    **ALLOCATION,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[03-04,7]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    **MEETING,
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4", **MEETING}
OF_ONE_PROCESS_EACH = {"RANK": "0", "WORLD_SIZE": "1"}


PALS = {"PMI_RANK": "4", "PMI_SIZE": "5"}


@pytest.fixture(autouse=True)
def _in_no_batch_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_module, "own_step", lambda: None)  # these tests may be a job themselves


@pytest.mark.parametrize(("step", "world_size"), [("batch", None), ("interactive", None), ("2", 5), (None, 5)])
def test_a_batch_script_does_not_take_part_in_the_step_that_submitted_it(
    step: str | None, world_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_module, "own_step", lambda: step)
    found = from_environment(STEP)
    assert (found and found.world_size) == world_size


def without(env: Mapping[str, str], *names: str) -> dict[str, str]:
    return {key: value for key, value in env.items() if key not in names}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        (TORCHRUN, Placement(3, 4, 1, 2, "h0", 29500, "torchrun")),
        ({**TORCHRUN, "MEGALM_LAUNCHER_PID": "17"}, Placement(3, 4, 1, 2, "h0", 29500, "local")),
        ({"RANK": "1", "WORLD_SIZE": "2", **MEETING}, Placement(1, 2, 0, 1, "h0", 29500, "torchrun")),
        (STEP, Placement(4, 5, 0, 1, "gpu03", 27002, "slurm")),
        ({**STEP, **MEETING}, Placement(4, 5, 0, 1, "h0", 29500, "slurm")),
        ({**STEP, "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, (1, 5, 1, 2)),
        (ALLOCATION, None),
        ({**ALLOCATION, "SLURM_STEP_NUM_TASKS": "1"}, None),
        (OPEN_MPI, Placement(5, 8, 1, 4, "h0", 29500, "openmpi")),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (MPICH, Placement(5, 8, 1, 4, "h0", 29500, "mpich")),
        ({**TORCHRUN, **STEP, "WORLD_SIZE": "8"}, (3, 8, 1, 2)),
        ({**TORCHRUN, **STEP, "TORCHELASTIC_RUN_ID": "less than the tasks, as nodes are gone"}, (3, 4, 1, 2)),
        ({**STEP, **OPEN_MPI}, (5, 8, 1, 4)),
        ({**STEP, **MPICH}, (5, 8, 1, 4)),
        ({**STEP, "PMI_RANK": "4", "PMI_SIZE": "5"}, (4, 5, 0, 1)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (without(OPEN_MPI, *MEETING), Placement(5, 8, 1, 4, "", 0, "openmpi")),
        (without(MPICH, *MEETING), Placement(5, 8, 1, 4, "", 0, "mpich")),
        (PALS, Placement(4, 5, 0, 1, "", 0, "pmi")),
        ({**PALS, "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}, Placement(4, 5, 1, 2, "", 0, "pmi")),
        ({**STEP, "PMIX_RANK": "4"}, (4, 5, 0, 1)),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**OPEN_MPI, "PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_place(env: Mapping[str, str], expected: Placement | tuple[int, ...] | None) -> None:
    placement = from_environment(env)
    if isinstance(expected, tuple):
        assert placement is not None
        found = (placement.rank, placement.world_size, placement.local_rank, placement.local_world_size)
        assert found == expected
    else:
        assert placement == expected


@pytest.mark.parametrize(
    ("env", "alone"),
    [
        ({}, True),
        (ALLOCATION, True),
        (STEP, True),
        ({**STEP, "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", **MEETING}, True),
        (TORCHRUN, False),
        ({"MEGALM_LAUNCHER_PID": "17"}, False),
        (OPEN_MPI, False),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
    ],
)
def test_who_may_start_the_ranks_of_a_machine(env: Mapping[str, str], alone: bool) -> None:
    assert is_alone_here(env) == alone


def test_rank_0_of_a_local_run_takes_the_listening_socket() -> None:
    env = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "MEGALM_LAUNCHER_PID": "17", "MEGALM_LISTEN_FD": "9"}
    placement = from_environment(env)
    assert placement is not None
    assert placement.listen_fd == 9


@pytest.mark.parametrize(
    ("env", "named"),
    [
        *[(without(TORCHRUN, name), name) for name in TORCHRUN if name != "RANK"],
        ({"WORLD_SIZE": "4"}, "RANK is not"),
        ({"WORLD_SIZE": "1"}, "RANK is not"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK=2"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5"),
        ({**TORCHRUN, "WORLD_SIZE": "four"}, "'four'"),
        ({**TORCHRUN, "RANK": "-1"}, "'-1'"),
        ({**TORCHRUN, "RANK": ""}, "RANK is not set"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({**STEP, "WORLD_SIZE": "4"}, "WORLD_SIZE=4 contradicts"),
        ({**STEP, **MEETING, **OF_ONE_PROCESS_EACH}, "WORLD_SIZE=1 contradicts"),
        ({**OPEN_MPI, **OF_ONE_PROCESS_EACH}, "WORLD_SIZE=1 contradicts"),
        *[(without(STEP, name), name) for name in STEP if name not in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")],
        ({**STEP, "SLURM_STEP_NODELIST": "[1-2]"}, "MASTER_ADDR"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "many"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({**STEP, "SLURM_NODEID": "3"}, "SLURM_NODEID=3"),
        *[(without(OPEN_MPI, name), name) for name in MEETING],
        *[(without(MPICH, name), name) for name in MEETING],
        ({**PALS, **MEETING}, "PMI_LOCAL_RANK"),
        ({"PMIX_RANK": "0"}, "PMIX_RANK=0"),
    ],
)
def test_what_is_incomplete_or_contradicts_is_refused_by_name(env: Mapping[str, str], named: str) -> None:
    with pytest.raises(UserError) as refused:
        from_environment(env)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
