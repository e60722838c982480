"""Which rank this process is, as the launcher that started it says in the environment.

Asked in this order, the innermost launcher first:

1. ``RANK``: torchrun's variables, which megalm's own local launcher sets too;
2. ``OMPI_COMM_WORLD_SIZE`` (Open MPI) and ``MPI_LOCALNRANKS`` (MPICH): under Slurm mpirun starts its daemons through
   srun, so Slurm's variables may stand around it and count the daemons;
3. ``SLURM_STEP_NUM_TASKS`` above 1: inside an srun step, with ``--mpi=none``, pmi2 or pmix alike, unless a batch script
   has it from the step that submitted it. Other SLURM_* variables say only that a job exists;
4. ``PMI_SIZE``: another starter of MPI programs;
5. ``PMIX_RANK`` alone tells no number of ranks, and is refused.

None of them, or one task only: no launcher. Variables that are incomplete or contradict one another are refused; they
never become a run of one process.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from megalm.errors import UserError
from megalm.launcher.slurm.environment import first_host, own_step, port_of_step

LOCAL_LAUNCHER = "MEGALM_LAUNCHER_PID"
"""Set by the local launcher: its process id."""
LISTEN_FD = "MEGALM_LISTEN_FD"
"""Set by the local launcher for rank 0: the socket, bound and listening, on which the ranks meet."""

AGENT_RUN = "TORCHELASTIC_RUN_ID"
"""Set by torchrun's agent for its ranks."""

MPI_VARIABLES = {
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""Rank, world size, local rank, local world size; the last is set by that mpirun alone."""


@dataclass(frozen=True)
class Placement:
    """This process among all of the run.

    Args:
        rank: from 0 to ``world_size - 1``.
        world_size: processes of the run.
        local_rank: this process's number on its machine.
        local_world_size: processes of the run on this machine.
        master_addr: where rank 0 can be reached; empty where the ranks have yet to agree by MPI (``mpi.agreed``).
        master_port: on which port.
        launcher: ``none``, ``local``, ``torchrun``, ``openmpi``, ``mpich``, ``slurm`` or ``pmi``.
        listen_fd: rank 0, if the meeting place is made for the run: the socket on ``master_port``, already listening.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int
    launcher: str
    listen_fd: int | None = None

    @staticmethod
    def alone() -> "Placement":
        """Return the placement of a run of one process."""
        return Placement(0, 1, 0, 1, "127.0.0.1", 0, "none")


def from_environment(env: Mapping[str, str]) -> Placement | None:
    """Return this process's placement, or None when no launcher started it.

    Args:
        env: ``os.environ``.

    Raises:
        UserError: the variables are incomplete, no numbers, or contradict one another.
    """
    around = _mpi_or_slurm(env)
    said = _number(env, "WORLD_SIZE", 0)
    if "RANK" in env:
        placement = _torchrun(env)
        counted = (
            placement.launcher == "local" or AGENT_RUN in env
        )  # by the launcher that is nearest, whatever is around
        if around is not None and placement.world_size < around.world_size and not counted:
            raise UserError(
                f"WORLD_SIZE={said} contradicts the {around.world_size} tasks of {around.launcher}; unset RANK and "
                "WORLD_SIZE, or start the ranks with torchrun."
            )
        return placement
    if around is None and said:
        raise UserError(f"WORLD_SIZE={said} is set but RANK is not; start the ranks with one launcher, or unset it.")
    if around is not None and said not in (0, around.world_size):
        raise UserError(f"WORLD_SIZE={said} contradicts the {around.world_size} tasks of {around.launcher}; unset it.")
    return around


def is_alone_here(env: Mapping[str, str]) -> bool:
    """Whether this process may start the ranks of its machine: no launcher has started several of it here.

    Slurm and Kubernetes start one on each machine and number them.

    Args:
        env: ``os.environ``.

    Raises:
        UserError: the variables of MPI or Slurm are incomplete, no numbers, or contradict one another.
    """
    if LOCAL_LAUNCHER in env or AGENT_RUN in env or "LOCAL_RANK" in env:
        return False
    around = _mpi_or_slurm(env)
    return around is None or around.local_world_size == 1


def _torchrun(env: Mapping[str, str]) -> Placement:
    local = {"LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    if len(local & env.keys()) == 1:
        (given,), (lacking,) = local & env.keys(), local - env.keys()
        raise UserError(
            f"{given} is set but {lacking} is not; a launcher sets both, or neither for one rank a machine."
        )
    launcher = "local" if LOCAL_LAUNCHER in env else "torchrun"
    one_each = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **env}
    return _read(one_each, launcher, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))


def _mpi_or_slurm(env: Mapping[str, str]) -> Placement | None:
    for launcher, names in MPI_VARIABLES.items():
        size, sign = names[1], names[3]
        if sign in env:
            return _read(env, launcher, names) if _number(env, size) > 1 else None
    if _number(env, "SLURM_STEP_NUM_TASKS", 1) > 1 and own_step() not in ("batch", "interactive"):
        return _slurm(env)
    if _number(env, "PMI_SIZE", 1) > 1:
        alone = {} if "MASTER_ADDR" in env else {"PMI_LOCAL_RANK": "0", "PMI_LOCAL_SIZE": "1"}  # until MPI tells
        return _read({**alone, **env}, "pmi", ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"))
    if "PMIX_RANK" in env and not env.keys() & {"SLURM_STEP_NUM_TASKS", "PMI_SIZE"}:
        raise UserError(
            f"PMIX_RANK={env['PMIX_RANK']} is set but nothing says how many ranks there are; start them with mpirun, "
            "srun or torchrun, or unset it."
        )
    return None


def _slurm(env: Mapping[str, str]) -> Placement:
    """Read an srun step: rank 0 is the first task on the first host of the step."""
    node = _number(env, "SLURM_NODEID")
    tasks = _tasks_by_node(_text(env, "SLURM_STEP_TASKS_PER_NODE"))
    if node >= len(tasks):
        raise UserError(f"SLURM_NODEID={node} is beyond SLURM_STEP_TASKS_PER_NODE={env['SLURM_STEP_TASKS_PER_NODE']}.")
    step = {
        "MASTER_ADDR": first_host(_text(env, "SLURM_STEP_NODELIST")),
        "MASTER_PORT": str(port_of_step(_number(env, "SLURM_JOB_ID"), _number(env, "SLURM_STEP_ID"))),
        **env,
        "SLURM_LOCAL_TASKS": str(tasks[node]),
    }
    return _read(step, "slurm", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_LOCAL_TASKS"))


def _tasks_by_node(text: str) -> list[int]:
    """Return the tasks of each node: ``2(x3),1`` is [2, 2, 2, 1]."""
    tasks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is not understood; start the ranks with srun.")
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _read(env: Mapping[str, str], launcher: str, names: tuple[str, str, str, str]) -> Placement:
    """Return the placement that four variables and the two of the meeting point tell."""
    rank_name, world_name, local_name, local_world_name = names
    rank, world_size = _number(env, rank_name), _number(env, world_name)
    local_rank, local_world_size = _number(env, local_name), _number(env, local_world_name)
    for below, above, low, high in (
        (rank_name, world_name, rank, world_size),
        (local_name, local_world_name, local_rank, local_world_size),
    ):
        if low >= high:
            raise UserError(
                f"{below}={low} contradicts {above}={high}: ranks count from 0; start them with one launcher."
            )
    if local_world_size > world_size:
        raise UserError(
            f"{local_world_name}={local_world_size} contradicts {world_name}={world_size}; start the ranks with one "
            "launcher."
        )
    agrees_by_mpi = launcher in ("openmpi", "mpich", "pmi") and not env.keys() & {"MASTER_ADDR", "MASTER_PORT"}
    listen_fd = _number(env, LISTEN_FD) if launcher == "local" and rank == 0 else None
    return Placement(
        rank,
        world_size,
        local_rank,
        local_world_size,
        "" if agrees_by_mpi else _text(env, "MASTER_ADDR"),
        0 if agrees_by_mpi else _number(env, "MASTER_PORT"),
        launcher,
        listen_fd,
    )


def _text(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise UserError(f"{name} is not set, though a launcher started this process; set it, the same for all ranks.")
    return value


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in env:
        return default
    text = _text(env, name)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UserError(f"{name}={text!r} is no count; a launcher sets it to a whole number from 0 upwards.")
    return int(text)
