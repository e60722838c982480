"""Oracle: hostfiles as the pages of Open MPI and MPICH write them, read by hand."""

from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.hostfile import Slots, fill, read_hostfile

THREE = [Slots("gpu-01", 8), Slots("10.0.0.2", 4), Slots("node_3.cluster", 2)]


@pytest.mark.parametrize(
    "text",
    [
        "gpu-01 slots=8\n10.0.0.2 slots=4\nnode_3.cluster slots=2\n",
        "# rack 1\n\ngpu-01  slots = 8 max_slots=16\n10.0.0.2\tslots=4 max-slots=4 # old\nnode_3.cluster slots=2",
        "gpu-01:8\r\n10.0.0.2:4\r\nnode_3.cluster: 2\r\n",
        "gpu-01:8\n10.0.0.2 slots=4\n  node_3.cluster:2",
    ],
)
def test_both_forms_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(text.encode())
    assert read_hostfile(path) == THREE


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("h1 slots=2\nh2\n", "line 2: 'h2' is not understood"),
        ("h1 slots=0", "line 1"),
        ("\n\nh1 slots=-1", "line 3"),
        ("h1 slots=two", "line 1"),
        ("h1 slots=2 h2 slots=2", "line 1"),
        ("h1:", "line 1"),
        ("-oProxyCommand=touch${IFS}x slots=1", "line 1"),
        ("h1;touch slots=1", "line 1"),
        ("h1 slots=2\n# again\nh1:2", "line 3: h1 is there already in line 1"),
        ("# nobody\n", "names no host"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_hostfile(path)
    assert named in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (tmp_path / "bytes", "no text")):
        with pytest.raises(UserError, match=reason):
            read_hostfile(path)


def test_hosts_are_filled_one_after_another() -> None:
    assert fill(THREE, 14) == THREE
    assert fill(THREE, 9) == [Slots("gpu-01", 8), Slots("10.0.0.2", 1)]
    assert fill(THREE, 8) == [Slots("gpu-01", 8)]
    with pytest.raises(UserError, match="15 ranks are more than the 14 slots"):
        fill(THREE, 15)
