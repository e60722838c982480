"""torch.distributed.pipelining beside megalm: the plain PyTorch GPT in two stages under its ``Schedule1F1B``."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from benchmarks.throughput.measure import Step
from benchmarks.throughput.over_ranks import clip, summed
from benchmarks.throughput.plain_torch import PlainGPT
from benchmarks.throughput.workload import Workload


class FirstStage(nn.Module):
    """Both embeddings and all blocks: together less matrix work than the head."""

    def __init__(self, whole: PlainGPT) -> None:
        """Take this stage's modules from the whole model."""
        super().__init__()
        self.table = whole.tokens.weight
        self.positions, self.blocks = whole.positions, whole.blocks

    def forward(self, inputs: Tensor) -> Tensor:
        """Map token numbers [batch, seq] to the stream [batch, seq, hidden]."""
        stream: Tensor = self.blocks(F.embedding(inputs, self.table) + self.positions.weight[: inputs.shape[1]])
        return stream


class LastStage(nn.Module):
    """The final norm and the head, with this stage's copy of the table."""

    def __init__(self, whole: PlainGPT) -> None:
        """Take this stage's modules from the whole model."""
        super().__init__()
        self.table = whole.tokens.weight
        self.final_norm = whole.final_norm

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream [batch, seq, hidden] to logits [batch, seq, vocabulary]."""
        return F.linear(self.final_norm(x), self.table)


def build_step(workload: Workload, micro_batch_size: int) -> tuple[Step, int]:
    """Return the training step of this rank's stage and the number of the whole model's parameters.

    Every rank draws the whole model from one seed and keeps its part, so both copies of the tied table begin alike;
    the sum of their gradients keeps them so.

    Raises:
        ValueError: there are not two ranks.
    """
    rank, num_stages = dist.get_rank(), dist.get_world_size()
    if num_stages != 2:
        raise ValueError(f"the model is cut for two stages, not for {num_stages}")
    torch.manual_seed(workload.seed)
    whole = PlainGPT(workload)
    module = FirstStage(whole) if rank == 0 else LastStage(whole)
    del whole
    table, parameters = module.table, list(module.parameters())
    own = [parameter for parameter in parameters if rank == 0 or parameter is not table]
    optimizer = torch.optim.AdamW(parameters, lr=workload.learning_rate)
    num_microbatches = workload.global_batch_size // micro_batch_size

    def share(logits: Tensor, targets: Tensor) -> Tensor:
        """Return the micro-batch's share of the global batch's loss: cheaper than to scale gradients at the end."""
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1)) / num_microbatches

    stage = PipelineStage(module, rank, num_stages, torch.device("cpu"))
    schedule = Schedule1F1B(stage, num_microbatches, loss_fn=share, scale_grads=False)

    def step(index: int) -> float:
        inputs, targets = workload.batch(index)
        losses: list[Tensor] = []
        if rank == 0:
            schedule.step(inputs, return_outputs=False)
        else:
            schedule.step(target=targets, losses=losses, return_outputs=False)
        assert table.grad is not None
        dist.all_reduce(table.grad)
        clip(parameters, own, workload.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return summed(sum(float(loss.detach()) for loss in losses))  # only the last stage has losses

    return step, int(summed(sum(parameter.numel() for parameter in own)))
