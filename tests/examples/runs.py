"""The run file of examples/own_model.yaml, made small."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.verify.probe import Probe, probe
from tests.ranks import RankContext

ROOT = Path(__file__).parents[2]
RUN_FILE = ROOT / "examples" / "own_model.yaml"
STEPS = 3
SMALL = (
    "model.num_hidden_layers=2",
    "model.hidden_size=16",
    "model.intermediate_size=21",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.seq_length=24",
    "lr_schedule.warmup_steps=0",
)


def small_run(*overrides: str) -> RunConfig:
    return RunConfig.load(RUN_FILE, [*SMALL, "train.precision=fp64", *overrides])


def seen_alone(config: RunConfig) -> Probe:
    torch.set_num_threads(1)
    return probe(config, Mesh.alone(), STEPS)


def seen_by_rank(_: RankContext, config: RunConfig) -> Probe:
    return probe(config, Mesh.build(config.layout, timeout_s=30), STEPS)


def megalm(*words: str, folder: Path = ROOT, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder; modules of the project's folder can be imported there too."""
    return subprocess.run(
        [sys.executable, "-m", "megalm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
