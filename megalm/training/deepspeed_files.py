"""DeepSpeed's universal checkpoints, read and written: a folder a parameter, with its weight, moments and step.

``FOLDER/zero/NAME/{fp32,exp_avg,exp_avg_sq}.pt`` hold ``{"param": tensor}`` with the whole tensor, ``step.pt`` the
number of updates. Names are those of the model's parameters, as ``named_parameters`` gives them. DeepSpeed's
``ds_to_universal`` makes such folders of its own checkpoints (Lian et al. 2024, "Universal Checkpointing").
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore, open_checkpoint
from megalm.errors import UserError
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.run_config import RunConfig
from megalm.training.model import whole_model, whole_specs
from megalm.training.precision import DTYPES
from megalm.validation import validate

FILES: Mapping[str, str] = {"fp32": "", "exp_avg": "optimizer.exp_avg.", "exp_avg_sq": "optimizer.exp_avg_sq."}
"""Each file of a parameter, and the prefix of the same tensor's name in our checkpoints."""


def export_deepspeed(checkpoint: Path, folder: Path, config: RunConfig | None = None) -> int:
    """Write a checkpoint of ours as a universal one and return how many parameters it has.

    Args:
        checkpoint: ``RUN_DIR/checkpoints/step-00000100``.
        folder: where ``zero`` is made.
        config: the run that saved it; without one the checkpoint's own word is taken for a built-in family, but no
            module is imported because a file names it.

    Raises:
        UserError: there is no such checkpoint, the folder is in use, or the optimizer keeps other things than AdamW.
    """
    given = open_checkpoint(checkpoint, Axis.alone())
    model = given.facts["config"]["model"]
    if config is None and ":" in str(model["family"]):
        raise UserError(f"{checkpoint} is of a model of one's own ({model['family']}); give its run file with --run.")
    if given.facts["config"].get("objective", {}).get("tasks"):
        raise UserError(
            f"{checkpoint} is of a run of several tasks, which DeepSpeed's engine does not train here; export one of "
            "them with `megalm export --task`."
        )
    specs = whole_specs(validate(ModelConfig, model) if config is None else config.model)
    names = given.names()
    lacking = [prefix + name for name in specs for prefix in FILES.values() if prefix + name not in names]
    if lacking:
        raise UserError(f"{checkpoint} has no {lacking[0]}; DeepSpeed's files hold AdamW's moments of every parameter.")
    if (folder / "zero").exists():
        raise UserError(f"{folder / 'zero'} is there already; choose another folder.")
    tensors = {
        prefix + name: torch.empty(*names[prefix + name][:1], dtype=names[prefix + name][1])
        for name in specs
        for prefix in FILES.values()
    }
    given.load({name: Piece.whole(tensor) for name, tensor in tensors.items()})
    for name, spec in specs.items():
        home = folder / "zero" / name
        home.mkdir(parents=True)
        for file, prefix in FILES.items():
            cut = {} if spec.split is None else {"cat_dim": spec.split.dim}
            torch.save({"param": tensors[prefix + name].float(), **cut}, home / f"{file}.pt")
        torch.save(torch.tensor(float(given.facts["updates"])), home / "step.pt")
    return len(specs)


def import_deepspeed(folder: Path, directory: Path, config: RunConfig) -> Path:
    """Write a universal checkpoint as one of ours and return its folder, ``DIRECTORY/step-00000100``.

    Args:
        folder: holds ``zero``.
        directory: where the checkpoint is made.
        config: the run that will go on from it; its model has the parameters of the same names.

    Raises:
        UserError: a file is missing, damaged or holds more than tensors, or a shape does not fit.
    """
    specs = whole_specs(config.model)
    dtype = torch.promote_types(DTYPES[config.train.precision], torch.float32)
    there = {path.name for path in (folder / "zero").glob("*") if path.is_dir()}
    known = {name for name, _ in whole_model(config.model).named_parameters(remove_duplicate=False)}
    for odd, where in ((there - known, "the run's model lacks it"), (specs.keys() - there, "the folder lacks it")):
        if odd:
            raise UserError(f"{folder / 'zero'} and the run's model differ in parameter {min(odd)}: {where}.")
    pieces: dict[str, Piece] = {}
    updates = {int(_read(folder / "zero" / name / "step.pt")) for name in specs}
    if len(updates) != 1:
        raise UserError(f"the parameters of {folder} were updated {sorted(updates)} times; they must be alike.")
    for name, spec in specs.items():
        for file, prefix in FILES.items():
            path = folder / "zero" / name / f"{file}.pt"
            read = _read(path)
            tensor = read.get("param") if isinstance(read, dict) else None
            if not isinstance(tensor, Tensor) or tensor.numel() != torch.Size(spec.shape).numel():
                raise UserError(f"{path} holds no tensor of shape {tuple(spec.shape)}; give the run's own model.")
            pieces[prefix + name] = Piece.whole(tensor.reshape(spec.shape).to(dtype))
    (step,) = updates
    facts = {"step": step, "updates": step, "config": config.model_dump(mode="json", by_alias=True)}
    CheckpointStore(directory, world=Axis.alone(), keep=1).save(step, pieces, facts, asynchronous=False)
    return directory / f"step-{step:08d}"


def _read(path: Path) -> Any:
    """Read tensors and plain values, never code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged, or holds more than tensors; no code is run from a file.") from error
