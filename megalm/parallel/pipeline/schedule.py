"""The choice of a schedule by its name in the run file: built-in, a CSV, or a function of the user's own. No torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from megalm.errors import UserError
from megalm.parallel.pipeline import schedules, v_schedules
from megalm.parallel.pipeline.action import COMPUTE
from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.program import Program, from_csv
from megalm.registry import lookup

Schedule = Callable[[int, int, int], Program]
"""From the numbers of ranks, of micro-batches and of stages on a rank to what the ranks compute."""

BUILT_IN: dict[str, Schedule] = {
    "gpipe": schedules.gpipe,
    "1f1b": schedules.one_f_one_b,
    "interleaved": schedules.interleaved,
    "zb-h1": schedules.zb_h1,
    "zb-h2": schedules.zb_h2,
    "zb-v": v_schedules.zb_v,
    "dualpipe-v": v_schedules.dualpipe_v,
}
MADE_FOR = {"gpipe": 1, "1f1b": 1, "zb-h1": 1, "zb-h2": 1, "zb-v": 2, "dualpipe-v": 2}
"""Stages a rank, where a built-in allows one number only."""
_KEY = "pipeline.schedule"


def stages_per_rank(name: str, asked: int | Literal["auto"]) -> int:
    """Return how many stages each rank holds: what is asked, or what the schedule needs.

    Args:
        name: from ``pipeline.schedule``.
        asked: from ``pipeline.stages_per_rank``; ``auto`` is 2 for ``interleaved`` and 1 for an own function, which
            take any number.

    Raises:
        UserError: the schedule is made for another number, its file cannot be read, or no built-in has the name.
    """
    if not _is_file(name) and ":" not in name:
        lookup(_KEY, name, BUILT_IN)
    return _held(name, asked)


def program_of(name: str, num_ranks: int, num_microbatches: int, stages_per_rank: int) -> Program:
    """Return what the ranks compute in a step, checked.

    Args:
        name: from ``pipeline.schedule``.
        num_ranks: from ``layout.pp``.
        num_microbatches: of one step.
        stages_per_rank: what the function of this name returned.

    Raises:
        UserError: no schedule has the name; or a user's own is of other numbers, or does not pass the checker.
    """
    program = _read(name) if _is_file(name) else _made(name, num_ranks, num_microbatches, stages_per_rank)
    _fits(name, program, num_ranks, num_microbatches)
    try:
        check(program)
    except UserError as error:
        raise UserError(f"{_KEY}={name}: {error}") from error
    held = _stages_a_rank(name, program) if num_microbatches else stages_per_rank
    if held != stages_per_rank:
        raise UserError(
            f"pipeline.stages_per_rank is {stages_per_rank}, but {_KEY}={name} is for {held}; make the numbers equal."
        )
    return program


def _held(name: str, asked: int | Literal["auto"]) -> int:
    needed = _stages_a_rank(name, _read(name)) if _is_file(name) else MADE_FOR.get(name)
    if asked == "auto":
        return needed or (2 if name == "interleaved" else 1)
    if needed is not None and asked != needed:
        raise UserError(
            f"pipeline.stages_per_rank={asked} contradicts {_KEY}={name}; {name} needs {needed}: write auto, or choose "
            "another schedule."
        )
    return asked


def _is_file(name: str) -> bool:
    return name.endswith(".csv")


def _read(name: str) -> Program:
    try:
        return from_csv(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{_KEY}={name} cannot be read ({reason}); name a CSV file with one line a rank.") from error
    except UserError as error:
        raise UserError(f"{_KEY}={name}: {error}") from error


def _made(name: str, num_ranks: int, num_microbatches: int, stages_per_rank: int) -> Program:
    schedule: object = lookup(_KEY, name, BUILT_IN)
    if not callable(schedule):
        raise UserError(
            f"{_KEY}={name} is no function; name one that takes the numbers of ranks, of micro-batches and of stages a "
            "rank."
        )
    made: object = schedule(num_ranks, num_microbatches, _held(name, stages_per_rank))
    if not isinstance(made, Program):
        raise UserError(f"{_KEY}={name} returned {type(made).__name__}; return a Program, as Program.of(lists) makes.")
    return made


def _stages_a_rank(name: str, program: Program) -> int:
    held = [len(program.stages_of(rank)) for rank in range(len(program.ranks))]
    if len(set(held)) != 1:
        raise UserError(
            f"{_KEY}={name} puts {', '.join(map(str, held))} stages on its ranks; give every rank the same number."
        )
    return held[0]


def _fits(name: str, program: Program, num_ranks: int, num_microbatches: int) -> None:
    if len(program.ranks) != num_ranks:
        raise UserError(
            f"layout.pp is {num_ranks}, but {_KEY}={name} is for {len(program.ranks)}; make the numbers equal."
        )
    for rank, action in program.actions():
        if action.kind not in COMPUTE:
            raise UserError(
                f"{_KEY}={name} has {action} on rank {rank}; write F, B, I and W only, since megalm adds sends, "
                "receives and reductions itself."
            )
    if program.num_microbatches != num_microbatches:
        raise UserError(
            f"the number of micro-batches in a step is {num_microbatches}, but {_KEY}={name} is for "
            f"{program.num_microbatches}; make the numbers equal."
        )
