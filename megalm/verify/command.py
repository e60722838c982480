"""``megalm verify``: the same steps at a layout and on one process, compared tensor by tensor."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from megalm.errors import TrainingError, UserError
from megalm.launcher import ranks
from megalm.launcher.local import launch
from megalm.launcher.placement import Placement
from megalm.layout import Layout
from megalm.mesh import Mesh
from megalm.parallel.data.config import ZeroConfig
from megalm.parallel.pipeline.config import PipelineConfig
from megalm.parallel.tensor.config import TensorConfig
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig
from megalm.validation import validate
from megalm.verify.compare import Finding, Tolerance, compare
from megalm.verify.files import read_probe, write_probe
from megalm.verify.probe import probe
from megalm.verify.scale import shrunk

JOB = "job.json"


def verify(config: RunConfig, steps: int = 3, scale: float = 1.0, precision: str = "fp64") -> list[Finding]:
    """Train a few steps at the run's layout and on one process, and return what was compared.

    Both run on CPU ranks. A disagreement names the first tensor that shows it.

    Args:
        config: the run; its layout is judged.
        steps: how many.
        scale: shrinks depth and width of a built-in family.
        precision: ``fp64`` judges everything to 1e-10; ``fp32`` and ``bf16`` judge loss and gradients by the dtype's
            rounding.

    Raises:
        UserError: the run file does not fit.
        TrainingError: a rank failed.
    """
    if config.zero.backend != "native":
        raise UserError(
            f"verify judges our own engine, and zero.backend is {config.zero.backend}; give it zero.backend=native too."
        )
    judged = _changed(shrunk(config, scale), {"train": {"precision": precision}, "run": {"device": "cpu"}})
    one_process = {
        "layout": Layout(),
        "tensor": TensorConfig(),
        "pipeline": PipelineConfig(),
        "zero": ZeroConfig(),
        "recompute": RecomputeConfig(),
    }
    alone = _changed(judged, {name: section.model_dump() for name, section in one_process.items()})
    with tempfile.TemporaryDirectory(prefix="megalm-verify-") as name:
        probes = {}
        for what, run in (("one", alone), ("layout", judged)):
            directory = Path(name) / what
            directory.mkdir()
            (directory / JOB).write_text(
                json.dumps({"steps": steps, "run": run.model_dump(mode="json", by_alias=True)})
            )
            command = [sys.executable, "-m", "megalm", "verify-rank", str(directory)]
            outcome = launch(command, run.layout.world_size)
            if outcome.code:
                raise (UserError if outcome.code == 2 else TrainingError)(outcome.message)
            probes[what] = [read_probe(directory, rank) for rank in range(run.layout.world_size)]
    return compare(probes["one"][0], probes["layout"], Tolerance.of(precision), config.optimizer.lr)


def probe_rank(directory: Path, placement: Placement | None) -> int:
    """Run one rank of a comparison that ``verify`` started."""
    job = json.loads((directory / JOB).read_text())
    config = validate(RunConfig, job["run"])
    ranks.start(placement or Placement.alone(), "cpu", config.run.timeout)
    try:
        mesh = Mesh.build(config.layout, torch.device("cpu"), timeout_s=config.run.timeout)
        write_probe(directory, probe(config, mesh, job["steps"]))
    finally:
        ranks.stop()
    return 0


def run(config: RunConfig, steps: int, scale: float, precision: str) -> int:
    """Judge, print the table, and return 0 if all agrees, else 1."""
    findings = verify(config, steps, scale, precision)
    show(findings, config.layout)
    return 0 if all(finding.agrees for finding in findings) else 1


def show(findings: Sequence[Finding], layout: Layout) -> None:
    """Print the findings as a table, and the first tensor that disagrees."""
    sizes = " ".join(f"{axis}={size}" for axis, size in layout.model_dump().items())
    table = Table(title=f"{sizes} against one process")
    for column in ("compared", "largest difference", "verdict"):
        table.add_column(column)
    for finding in findings:
        table.add_row(finding.what, f"{finding.difference:.1e}", "agrees" if finding.agrees else "DISAGREES")
    console = Console()
    console.print(table)
    detail = next((finding.detail for finding in findings if finding.detail), "")
    wrong = [finding.what for finding in findings if not finding.agrees]
    if not wrong:
        console.print("the layout does not change the result")
        return
    console.print(f"the layout changes the result: first in {wrong[0]}", soft_wrap=True)
    if detail:
        console.print(detail, markup=False, highlight=False, soft_wrap=True)


def _changed(config: RunConfig, changes: dict[str, dict[str, object]]) -> RunConfig:
    tree = config.model_dump(mode="json", by_alias=True)
    for section, fields in changes.items():
        tree[section] = {**tree[section], **fields}
    return validate(RunConfig, tree)
