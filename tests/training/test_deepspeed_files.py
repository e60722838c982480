"""Oracle: DeepSpeed's own reader of universal checkpoints, its own converter, and the values themselves."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore
from megalm.cli.main import run
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.mesh import Axis
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import Foreign
from megalm.training.deepspeed_files import FILES, export_deepspeed, import_deepspeed
from megalm.training.resume import facts, owned_pieces
from tests.ranks import RankContext, RankPool
from tests.training.backends.runs import Seen, begin, go_on, run_config, trained

DATA = Layout(dp=2)


def zero_1() -> RunConfig:
    return run_config(DATA, "deepspeed", 1)


def read_by_deepspeed(context: RankContext, checkpoint: Path, folder: Path) -> list[float]:
    """Let DeepSpeed read what was exported into an untrained engine; return steps and differences."""
    state, _ = begin(zero_1())
    assert isinstance(state, Foreign)
    from deepspeed.checkpoint.universal_checkpoint import load_hp_checkpoint_state

    found = []
    for parameter in state.parameters:
        name = parameter.spec.name  # type: ignore[attr-defined]
        if parameter._hp_mapping is None:  # type: ignore[attr-defined]
            continue
        read = types.MethodType(load_hp_checkpoint_state, parameter)
        found.append(float(read(str(folder / "zero" / name), 0, 1)))
        fragment: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        at = slice(fragment.lp_fragment_address.start, None)
        for file in FILES:
            whole = torch.load(folder / "zero" / name / f"{file}.pt", weights_only=True)["param"].flatten()
            held = fragment.hp_fragment if file == "fp32" else fragment.optim_fragment[file]
            found.append(float((held - whole[at][: held.numel()]).abs().max().detach()))
    return found


def saved(context: RankContext, folder: Path) -> dict[str, str]:
    """Train three steps with DeepSpeed and save in its format and in ours; return our name for each of its names."""
    config = zero_1()
    state, feed = begin(config)
    go_on(state, feed, Seen(), 3)
    store = CheckpointStore(folder / "ours", world=state.mesh.world, keep=1)
    store.save(3, owned_pieces(state), facts(state, config), asynchronous=False)
    assert isinstance(state, Foreign)
    state._engine.save_checkpoint(str(folder), tag="theirs")  # type: ignore[attr-defined]
    theirs, ours = (
        [(name, id(parameter)) for name, parameter in module.named_parameters(remove_duplicate=False)]
        for module in (state.whole, state.model)
    )
    return dict(zip(in_order(theirs), in_order(ours), strict=True))


def in_order(named: list[tuple[str, int]]) -> list[str]:
    """Return names, those of a tied table one after the other."""
    first = {key: place for place, (_, key) in reversed(list(enumerate(named)))}
    return [name for name, _ in sorted(named, key=lambda each: first[each[1]])]


@pytest.fixture(scope="module")
def names(ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return folder, ranks.run(2, saved, folder)[0]


def test_deepspeed_reads_what_is_exported(ranks: RankPool, names: tuple[Path, dict[str, str]]) -> None:
    folder, ours = names
    assert run(["export-ds", str(folder / "ours" / "step-00000003"), str(folder / "exported")], {}) == 0
    assert len(list((folder / "exported" / "zero").iterdir())) == len(ours) - 1  # one is tied
    for found in ranks.run(2, read_by_deepspeed, folder / "ours", folder / "exported"):
        assert set(found) == {0.0, 3.0}


def test_a_run_goes_on_from_deepspeeds_checkpoint(
    ranks: RankPool, names: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, ours = names
    convert = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    convert += ["--input_folder", str(folder / "theirs"), "--output_folder", str(folder / "universal")]
    convert += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    subprocess.run(convert, check=True, capture_output=True, timeout=120, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    for theirs, name in ours.items():
        (folder / "universal" / "zero" / theirs).rename(folder / "universal" / "zero" / name)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(zero_1().to_yaml())
    assert run(["import-ds", str(folder / "universal"), str(tmp_path / "made"), "--run", str(run_file)], {}) == 0
    alone = trained(run_config(Layout(), "native", 0), 5)
    (seen,) = ranks.run(1, gone_on, tmp_path / "made")
    assert seen.losses == pytest.approx(alone.losses[3:], rel=1e-5)


def gone_on(context: RankContext, folder: Path) -> Seen:
    state, feed = begin(run_config(Layout(), "native", 0))
    from megalm.training.resume import restore

    newest = CheckpointStore(folder, world=state.mesh.world, keep=1).newest()
    assert newest is not None
    restore(state, newest)
    seen = Seen()
    go_on(state, feed, seen, 2)
    return seen


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("exploded"), ""))


def test_code_in_a_file_is_not_run(names: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = names
    export_deepspeed(folder / "ours" / "step-00000003", tmp_path)
    victim = sorted((tmp_path / "zero").iterdir())[0] / "fp32.pt"
    torch.save({"param": Bomb()}, victim)
    with pytest.raises(UserError, match="no code is run from a file"):
        import_deepspeed(tmp_path, tmp_path / "made", zero_1())
    assert not Path("exploded").exists()


def test_another_model_is_refused(names: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = names
    export_deepspeed(folder / "ours" / "step-00000003", tmp_path)
    deeper = run_config(DATA, "native", 0, model={"num_hidden_layers": 3})
    with pytest.raises(UserError, match=r"differ in parameter model\.layers\.2\..*: the folder lacks it"):
        import_deepspeed(tmp_path, tmp_path / "made", deeper)
    with pytest.raises(UserError, match="is there already"):
        export_deepspeed(folder / "ours" / "step-00000003", tmp_path)


def test_a_checkpoint_does_not_say_what_is_imported(tmp_path: Path) -> None:
    config = run_config(Layout(), "native", 0).model_dump(mode="json", by_alias=True)
    config["model"]["family"] = "tests.training.no_such_module:build"
    store = CheckpointStore(tmp_path, world=Axis.alone(), keep=1)
    store.save(1, {"w": Piece.whole(torch.ones(2))}, {"config": config, "updates": 1, "step": 1}, asynchronous=False)
    with pytest.raises(UserError, match="is of a model of one's own"):
        export_deepspeed(tmp_path / "step-00000001", tmp_path / "exported")
