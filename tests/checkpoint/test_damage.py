"""Oracle: the damage done here by hand, and the checkpoint before it, whose bits are known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megalm.checkpoint.manifest import MANIFEST, MARK, fingerprint, mark_of
from megalm.checkpoint.store import CheckpointStore, open_checkpoint
from megalm.errors import UserError
from megalm.mesh import Axis
from tests.checkpoint.tensors import alone, check_whole, save, world_of
from tests.ranks import RankContext, RankPool

FILES = (".metadata", "__0_0.distcp", "facts.json", MANIFEST, MARK)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Return the directory of a run with checkpoints of steps 1 and 2."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert {path.name for path in (tmp_path / "step-00000002").iterdir()} == set(FILES)
    return tmp_path


def one_byte_changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [one_byte_changed, cut_short, grown, emptied, missing, a_folder])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    two: Path, file: str, damage: Callable[[Path], None]
) -> None:
    damage(two / "step-00000002" / file)
    warnings: list[str] = []
    found = alone(two, warnings=warnings).newest()
    assert found is not None
    assert found.step == 1
    check_whole(found)
    (warning,) = warnings
    assert warning.startswith(f"checkpoint {two}/step-00000002 is refused: ")
    assert file in warning
    with pytest.raises(UserError, match=f"^checkpoint {two}/step-00000002 is refused: .*{file}.*; choose another one"):
        open_checkpoint(two / "step-00000002", Axis.alone())


def test_every_byte_counts(two: Path) -> None:
    whole = two / "step-00000002"
    for file in FILES:
        content = (whole / file).read_bytes()
        for at in range(0, len(content), max(len(content) // 25, 1)):
            altered = bytearray(content)
            altered[at] ^= 1 << (at % 8)
            (whole / file).write_bytes(altered)
            with pytest.raises(UserError, match=file):
                open_checkpoint(whole, Axis.alone())
        (whole / file).write_bytes(content)
    check_whole(open_checkpoint(whole, Axis.alone()))


def test_a_run_does_not_start_over_in_silence_when_all_its_checkpoints_are_damaged(two: Path) -> None:
    for step in (1, 2):
        one_byte_changed(two / f"step-{step:08d}" / "__0_0.distcp")
    warnings: list[str] = []
    with pytest.raises(UserError, match=f"no checkpoint in {two} is intact; start afresh with checkpoint.resume=never"):
        alone(two, warnings=warnings).newest()
    assert len(warnings) == 2


def test_a_later_format_names_the_way_out(two: Path) -> None:
    manifest = two / "step-00000002" / MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 2}))
    (manifest.parent / MARK).write_text(mark_of(fingerprint(manifest)))
    with pytest.raises(UserError, match="it has format 2 and this megalm reads 1; use a newer megalm"):
        open_checkpoint(manifest.parent, Axis.alone())


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"^{path} is no checkpoint; give a folder like RUN_DIR/checkpoints/step-0"):
            open_checkpoint(path, Axis.alone())


def test_a_checkpoint_may_be_copied_and_renamed(two: Path) -> None:
    shutil.copytree(two / "step-00000002", two / "elsewhere" / "best")
    copy = open_checkpoint(two / "elsewhere" / "best", Axis.alone())
    assert copy.step == 2
    check_whole(copy)


def find_newest(context: RankContext, directory: Path) -> tuple[int, list[str]]:
    warnings: list[str] = []
    found = CheckpointStore(directory, world=world_of(context), keep=2, warn=warnings.append).newest()
    assert found is not None
    check_whole(found)
    return found.step, warnings


def test_all_ranks_agree_and_one_of_them_tells(two: Path, ranks: RankPool) -> None:
    (two / "step-00000002" / "facts.json").unlink()
    text = f"checkpoint {two}/step-00000002 is refused: facts.json is missing."
    assert ranks.run(3, find_newest, two) == [(1, [text]), (1, []), (1, [])]
