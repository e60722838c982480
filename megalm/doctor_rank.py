"""One of the two ranks that ``megalm doctor`` starts: it joins the other as a run would, and adds a number.

Run as ``python -m megalm.doctor_rank RANK PORT LISTEN_FD DEVICE_TYPE``, rank 0 with the listening socket of the port.
"""

import os
import sys

import torch

from megalm.collectives import all_reduce
from megalm.launcher import parent, ranks
from megalm.launcher.placement import Placement
from megalm.layout import Layout
from megalm.mesh import Mesh

NUM_RANKS = 2
TIMEOUT_S = 120


def main(rank: int, port: int, listen_fd: int, device_type: str) -> int:
    """Join, add 1 + 2 over the ranks, leave; return 0 if the sum is right."""
    parent.die_with(os.getppid())
    socket = listen_fd if rank == 0 else None
    ranks.start(Placement(rank, NUM_RANKS, rank, NUM_RANKS, "127.0.0.1", port, "local", socket), device_type, TIMEOUT_S)
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    mesh = Mesh.build(Layout(dp=NUM_RANKS), device, timeout_s=TIMEOUT_S)
    number = torch.tensor([rank + 1.0], device=device)
    all_reduce(number, mesh.dp)
    total = number.item()
    ranks.stop()
    return 0 if total == NUM_RANKS * (NUM_RANKS + 1) / 2 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
