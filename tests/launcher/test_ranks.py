"""Oracle: a sum over real gloo ranks that the local launcher started."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = """
import sys
from megalm.launcher.local import launch
sys.exit(launch([sys.executable, "-c", sys.argv[1]], 3).code)
"""
RANK = """
import os, torch
from megalm.collectives import all_reduce
from megalm.launcher import ranks
from megalm.launcher.parent import die_with
from megalm.launcher.placement import from_environment
from megalm.layout import Layout
from megalm.mesh import Mesh
placement = from_environment(os.environ)
die_with(int(os.environ["MEGALM_LAUNCHER_PID"]))
ranks.start(placement, "cpu", 60)
total = all_reduce(torch.tensor([10.0 ** placement.rank]), Mesh.build(Layout(dp=3)).world)
if placement.rank == 2:
    print(int(total), torch.get_num_threads())
ranks.stop()
"""


def test_three_ranks_meet_without_a_port_of_their_choice() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, RANK], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "[rank 2] 111 1" in done.stderr.splitlines()
    assert done.stdout == ""
