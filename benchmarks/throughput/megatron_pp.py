"""megatron-core's GPT over the stages of a pipeline of CPU ranks, by its 1F1B schedule without interleaving."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.throughput.measure import Step
from benchmarks.throughput.megatron_cpu import build_model
from benchmarks.throughput.over_ranks import clip, summed
from benchmarks.throughput.workload import Workload

MicroBatches = Iterator[tuple[Tensor, Tensor]]


def _loss(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean twice: the schedule divides the first in place by the number of micro-batches."""
    loss = losses.mean()
    return loss, loss.detach().clone()


def build_step(workload: Workload, micro_batch_size: int) -> tuple[Step, int]:
    """Return the training step of this rank's stage and the number of the whole model's parameters."""
    torch.manual_seed(workload.seed)
    model = build_model(workload, pp=dist.get_world_size())
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    table = model.shared_embedding_or_output_weight()  # type: ignore[operator]
    parameters = list(model.parameters())
    is_first = parallel_state.is_pipeline_first_stage()
    own = [parameter for parameter in parameters if is_first or parameter is not table]
    optimizer = torch.optim.AdamW(parameters, lr=workload.learning_rate)
    length = workload.seq_length
    masked = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)
    positions = torch.arange(length).expand(micro_batch_size, -1)
    num_microbatches = workload.global_batch_size // micro_batch_size
    schedule = get_forward_backward_func()

    def forward(batches: MicroBatches, stage: nn.Module) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        inputs, targets = next(batches)
        return stage(inputs, positions, masked, labels=targets), _loss

    def step(index: int) -> float:
        inputs, targets = workload.batch(index)
        losses: list[Tensor] = schedule(
            forward_step_func=forward,
            data_iterator=zip(inputs.split(micro_batch_size), targets.split(micro_batch_size), strict=True),
            model=model,
            num_microbatches=num_microbatches,
            seq_length=length,
            micro_batch_size=micro_batch_size,
            forward_only=False,
        )
        dist.all_reduce(table.grad, group=parallel_state.get_embedding_group())
        clip(parameters, own, workload.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return summed(float(sum(losses))) / num_microbatches  # only the last stage has losses

    return step, int(summed(sum(parameter.numel() for parameter in own)))
