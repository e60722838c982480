"""The other engines as their own users have them: around the GPT that one writes in plain PyTorch."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from benchmarks.throughput.measure import Step
from benchmarks.throughput.plain_torch import PlainGPT, learn, over_ranks
from benchmarks.throughput.workload import Workload
from benchmarks.zero.claims import Engine


def build_step(engine: Engine, workload: Workload) -> tuple[Step, int]:
    """Return the training step of this rank, a member of the default group, and the number of parameters."""
    torch.manual_seed(workload.seed)
    plain = PlainGPT(workload)
    count = sum(parameter.numel() for parameter in plain.parameters())
    step = {"deepspeed": _deepspeed, "fsdp2": _fsdp2, "zero-redundancy": _zero_redundancy}[engine.name]
    return step(plain, workload, engine.stage), count


def _deepspeed(plain: PlainGPT, workload: Workload, stage: int) -> Step:
    """With its defaults, its own clipping, and torch's AdamW: its own for the CPU is compiled at the first use."""
    from megalm.training.backends.deepspeed import import_deepspeed

    engine, *_ = import_deepspeed("cpu").initialize(
        model=plain,
        optimizer=torch.optim.AdamW(plain.parameters(), lr=workload.learning_rate),
        config={
            "train_micro_batch_size_per_gpu": workload.global_batch_size // dist.get_world_size(),
            "gradient_clipping": workload.clip_grad_norm,
            "steps_per_print": None,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": stage},
        },
    )

    def step(index: int) -> float:
        loss = engine(*workload.batch(index, dist.get_rank(), dist.get_world_size()))
        engine.backward(loss)
        engine.step()
        return over_ranks(loss)

    return step


def _fsdp2(plain: PlainGPT, workload: Workload, _: int) -> Step:
    """Block by block, as its tutorial shows it."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (*plain.blocks, plain):
        fully_shard(module, mesh=mesh).set_force_sum_reduction_for_comms(True)  # gloo has no other
    optimizer = torch.optim.AdamW(plain.parameters(), lr=workload.learning_rate)
    return _step(plain, optimizer, workload)


def _zero_redundancy(plain: PlainGPT, workload: Workload, _: int) -> Step:
    """All gradients on all ranks; each rank updates some parameters, and gives them to the others."""
    model = DistributedDataParallel(plain)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=workload.learning_rate)
    return _step(model, optimizer, workload)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload) -> Step:
    def step(index: int) -> float:
        loss: Tensor = model(*workload.batch(index, dist.get_rank(), dist.get_world_size()))
        learn(loss, model, optimizer, workload)
        return over_ranks(loss)

    return step
