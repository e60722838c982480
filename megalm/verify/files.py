"""A probe on disk, between the process that ran the steps and the one that compares."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from megalm.param_spec import Init, ParamSpec, Split
from megalm.verify.probe import Held, Probe


def write_probe(directory: Path, probe: Probe) -> None:
    """Write ``rank-N.json`` and ``rank-N.safetensors``."""
    facts = {
        "rank": probe.rank,
        "losses": probe.losses,
        "grad_norms": probe.grad_norms,
        "held": [{"moment": held.moment, "spec": asdict(held.spec), "offsets": held.offsets} for held in probe.held],
    }
    (directory / f"rank-{probe.rank}.json").write_text(json.dumps(facts))
    tensors = {str(number): held.tensor.contiguous() for number, held in enumerate(probe.held)}
    save_file(tensors, directory / f"rank-{probe.rank}.safetensors")


def read_probe(directory: Path, rank: int) -> Probe:
    """Read what ``write_probe`` wrote."""
    facts = json.loads((directory / f"rank-{rank}.json").read_text())
    tensors = load_file(directory / f"rank-{rank}.safetensors")
    held = [
        Held(entry["moment"], _spec(entry["spec"]), tuple(entry["offsets"]), tensors[str(number)])
        for number, entry in enumerate(facts["held"])
    ]
    return Probe(facts["rank"], facts["losses"], facts["grad_norms"], held)


def _spec(fields: dict[str, Any]) -> ParamSpec:
    split = fields["split"]
    return ParamSpec(
        **{
            **fields,
            "shape": tuple(fields["shape"]),
            "init": Init(**fields["init"]),
            "partial_over": tuple(fields["partial_over"]),
            "split": split and Split(split["axis"], split["dim"], tuple(map(tuple, split["ranges"]))),
        }
    )
