"""The orders of torch.distributed.pipelining, taken from its schedule classes without process groups."""

from collections.abc import Iterable
from typing import Any

from torch.distributed.pipelining import schedules as torch_schedules

Orders = list[list[str]]


class WatchedStage:
    """Stands in for torch's stage: it computes and sends nothing, and writes down when it is asked to compute."""

    is_last = False

    def __init__(self, number: int) -> None:
        self.stage_index = number
        self.words: list[str] = []

    def forward_one_chunk(self, number: int, *_: object, **__: object) -> None:
        self.words.append(f"{self.stage_index}F{number}")

    def backward_one_chunk(self, number: int, **_: object) -> None:
        self.words.append(f"{self.stage_index}B{number}")

    def perform_reduce_grad(self, _: int) -> None: ...

    def get_fwd_recv_ops(self, _: int) -> list[Any]:
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops


def run_order(schedule: type[Any], num_ranks: int, num_microbatches: int) -> Orders:
    """Return what a schedule of one stage a rank does when it runs; its drawn order differs on the last rank."""
    ranks = []
    for rank in range(num_ranks):
        running = bare(
            schedule,
            _stage=WatchedStage(rank),
            _num_stages=num_ranks,
            _n_microbatches=num_microbatches,
            _loss_fn=None,
            _internal_losses=[],
            _initialize_stage=lambda *_: None,
            scale_grads=False,
        )
        running._step_microbatches()
        ranks.append(running._stage.words)
    return ranks


def gpipe(num_ranks: int, num_microbatches: int) -> Orders:
    return run_order(torch_schedules.ScheduleGPipe, num_ranks, num_microbatches)


def one_f_one_b(num_ranks: int, num_microbatches: int) -> Orders:
    return run_order(torch_schedules.Schedule1F1B, num_ranks, num_microbatches)


def interleaved_is_defined(num_ranks: int, num_microbatches: int) -> bool:
    return num_microbatches % max(1, num_microbatches // num_ranks) == 0


def interleaved(num_ranks: int, num_microbatches: int, stages_per_rank: int) -> Orders:
    schedule = bare(
        torch_schedules.ScheduleInterleaved1F1B,
        pp_group_size=num_ranks,
        n_local_stages=stages_per_rank,
        microbatches_per_round=num_microbatches // max(1, num_microbatches // num_ranks),
        _n_microbatches=num_microbatches,
    )
    return [words(schedule._calculate_single_rank_operations(rank)) for rank in range(num_ranks)]


def in_v(name: str, num_ranks: int, num_microbatches: int) -> Orders:
    """Return the order of ScheduleZBVZeroBubble or ScheduleDualPipeV."""
    return [words(rank_actions(name, num_ranks, num_microbatches, rank)) for rank in range(num_ranks)]


def rank_actions(name: str, num_ranks: int, num_microbatches: int, rank: int) -> list[Any]:
    """Return one rank's actions as torch makes them: idle steps are ``None``, some pairs overlap."""
    schedule = bare(
        getattr(torch_schedules, name),
        pp_group_size=num_ranks,
        num_stages=2 * num_ranks,
        _n_microbatches=num_microbatches,
    )
    actions: list[Any] = schedule._calculate_single_rank_operations(rank)
    return actions


def bare(schedule: type[Any], **attributes: object) -> Any:
    """Return an object of the class that was never initialized, with only what its order is made of."""
    made = object.__new__(schedule)
    made.__dict__.update(attributes)
    return made


def words(actions: Iterable[Any]) -> list[str]:
    """Return the words of torch's actions, without idle steps, overlapped pairs as their parts."""
    flat = [part for action in actions if action is not None for part in (action.sub_actions or (action,))]
    return [str(action) for action in flat]
