"""What a directory holds that text is made from: weights, the run that they are from, and its tokenizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from megalm.checkpoint.peers import Peers
from megalm.checkpoint.store import open_newest
from megalm.errors import UserError
from megalm.generation.asked import asked, tree_of
from megalm.generation.model import LanguageModel
from megalm.hugging_face.importer import config_of
from megalm.hugging_face.load import fill_parameters
from megalm.launcher import ranks
from megalm.launcher.placement import Placement
from megalm.mesh import Mesh
from megalm.models.config_json import CONFIG
from megalm.run_config import RunConfig
from megalm.training.chosen import choose
from megalm.validation import validate

KEPT = ("format", "model", "objective", "data", "train")
"""The sections of a saved run that say what its weights are."""


@contextmanager
def mesh_of(overrides: Sequence[str], placement: Placement) -> Iterator[Mesh]:
    """Join the other ranks, and leave them at the end.

    Raises:
        UserError: the ranks do not meet, or are not as many as the layout says.
    """
    layout, run = (told := asked(overrides)).layout, told.run
    layout.check(placement.world_size)
    choice = ranks.start(placement, run.device, run.timeout, together=layout.tp)
    try:
        yield Mesh.build(layout, torch.device(choice.type), timeout_s=run.timeout)
    finally:
        ranks.stop()


def open_model(directory: Path, overrides: Sequence[str], mesh: Mesh, task: str | None = None) -> LanguageModel:
    """Return the model of a checkpoint, of a run's newest complete one, or of a Hugging Face directory.

    Args:
        directory: holds one of them.
        overrides: the layout and the like.
        mesh: this rank's axes.
        task: whose model it is, of a run of several tasks; see ``choose``.

    Raises:
        UserError: there is none, it is damaged, or it does not fit the layout.
    """
    if (directory / CONFIG).is_file():
        if task is not None:
            raise UserError(f"--task {task} has no effect: {directory} holds one model; remove it.")
        model = LanguageModel(config_of(directory, overrides), mesh)
        Peers(mesh.world, mesh.timeout_s, "the weights").together(lambda: model.fill(fill_parameters))
        return model
    checkpoint = open_newest(directory, mesh.world)
    saved = checkpoint.facts.get("config")
    if not isinstance(saved, dict):
        raise UserError(f"{checkpoint.folder} does not say of which run it is; save it again with this megalm.")
    tree = {name: dict(saved[name]) if isinstance(saved[name], dict) else saved[name] for name in KEPT if name in saved}
    tree.get("model", {}).pop("from", None)  # the weights are the checkpoint's
    for name, section in tree_of(overrides).items():
        tree[name] = {**tree.get(name, {}), **section}
    chosen = choose(validate(RunConfig, tree), task)
    model = LanguageModel(chosen.config, mesh)
    model.load(checkpoint, chosen)
    return model


def tokenizer_file(config: RunConfig, directory: Path, named: Path | None) -> Path | None:
    """Return the tokenizer that was named, else the one beside the weights, else that of the run's data, if any."""
    beside = directory / "tokenizer.json"
    path = named or (beside if beside.is_file() else config.tokenizer_path())
    return path if path is not None and (named or path.is_file()) else None
