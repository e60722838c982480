"""One rank of one measurement, in a process of its own: ``python -m benchmarks.throughput.rank SIDE``.

The runner sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun does, unless there is only one rank. The
reading is the last line of stdout, as JSON.
"""

import argparse
import json
import os
from dataclasses import asdict

import torch
import torch.distributed as dist

from benchmarks.throughput.measure import Step, leave, read_rank
from benchmarks.throughput.workload import Workload
from benchmarks.zero.claims import ENGINES


def _build(side: str, workload: Workload, dp: int, tp: int, pp: int, micro_batch_size: int) -> tuple[Step, int]:
    """Import one side only: what another side imports must not count in the memory of this one."""
    if side == "megalm":
        from benchmarks.throughput import megalm_side

        return megalm_side.build_step(workload, dp, tp, pp, micro_batch_size)
    if side in ENGINES:
        from benchmarks.zero import sides

        return sides.build_step(side, workload, dp, micro_batch_size)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    if side == "torch-pipelining":
        from benchmarks.throughput import torch_pp

        return torch_pp.build_step(workload, micro_batch_size)
    if side == "megatron-core" and pp > 1:
        from benchmarks.throughput import megatron_pp

        return megatron_pp.build_step(workload, micro_batch_size)
    if side == "megatron-core":
        from benchmarks.throughput import megatron_tp

        return megatron_tp.build_step(workload)
    from benchmarks.throughput import plain_torch

    return plain_torch.build_step(workload, data_parallel=dp > 1)


def main() -> None:
    """Build the side, measure it, and print this rank's reading."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("megalm", "plain", "torch-pipelining", "megatron-core", *ENGINES))
    parser.add_argument("--dp", type=int, default=1)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--micro-batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workload", type=json.loads, default={}, help="fields of Workload, as JSON")
    arguments = parser.parse_args()
    workload = Workload(**arguments.workload)
    torch.set_num_threads(arguments.threads)
    dp, tp, pp = arguments.dp, arguments.tp, arguments.pp
    step, num_parameters = _build(arguments.side, workload, dp, tp, pp, arguments.micro_batch_size)
    torch.set_num_threads(arguments.threads)  # megalm chooses by itself: on a larger machine it would take more
    reading = read_rank(step, num_parameters, workload)
    if dist.is_initialized():
        dist.destroy_process_group()
    leave(asdict(reading))


if __name__ == "__main__":
    main()
