"""Oracle: the operating system: which ranks are alive after what a launcher at the other end of its pipes did."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megalm import __version__
from megalm.launcher.conclusion import RankEnd
from megalm.launcher.ssh.words import Speaker, Word, heard, pack, unpack
from megalm.launcher.verdict import Verdict
from tests.launcher.test_local import ROOT, alive, assert_gone

LINK_TIMEOUT_S = 4


class Node:
    """A started ``megalm node``, of which this is the launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "megalm", "node", f"--link-timeout={LINK_TIMEOUT_S}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            bufsize=0,
        )
        assert self.process.stdin is not None
        self._speaker = Speaker(self.process.stdin)  # type: ignore[arg-type]
        assert self.hear("here")["version"] == __version__

    def say(self, word: str, **more: Any) -> None:
        self._speaker.say(word, **more)

    def hear(self, wanted: str) -> Word:
        """Return the next word of a kind."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word = heard(line)
            assert word is not None, line
            if word["word"] == wanted:
                return word
        raise AssertionError(f"it has ended without {wanted}")

    def start(self, behaviour: str, num_ranks: int = 2) -> None:
        self.say("listen", host="127.0.0.1", alone=True, num_ranks=num_ranks)
        place = self.hear("listens")
        command = [sys.executable, "-m", "tests.launcher.rank_program", str(self.folder), behaviour]
        share = [0, num_ranks, num_ranks, place["address"], place["port"]]
        self.say("start", command=command, env={"PASSED_ON": "yes"}, share=share, run_dir=str(self.folder))

    def ranks(self) -> list[int]:
        """Return the process ids, once all ranks run; meanwhile the link is kept alive."""
        files = [self.folder / f"{rank}.pid" for rank in range(2)]
        end = time.monotonic() + 60
        while not all(file.exists() for file in files):
            assert time.monotonic() < end, "the ranks did not start"
            self.say("beat")
            time.sleep(0.1)
        return [int(file.read_text()) for file in files]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    started = Node(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()
    for pipe in (started.process.stdin, started.process.stdout):
        assert pipe is not None
        pipe.close()


@pytest.mark.parametrize("end", ["closed", "silent"])
def test_ranks_end_when_the_launcher_is_gone_or_silent(node: Node, end: str) -> None:
    node.start("stubborn")
    pids = node.ranks()
    since = time.monotonic()
    if end == "closed":
        assert node.process.stdin is not None
        node.process.stdin.close()
    else:
        time.sleep(LINK_TIMEOUT_S / 2)
        assert all(map(alive, pids))
        since += LINK_TIMEOUT_S
    assert_gone(pids, since)
    node.process.wait(timeout=20)


def test_how_ranks_ended_is_told_with_their_output(node: Node) -> None:
    node.start("complete")
    assert node.hear("out")["text"] == "out of 0"
    ends = [unpack(end, "h1", 5.0) for end in node.hear("ended")["ranks"]]
    assert [(end.number, end.code, end.host, end.died) for end in ends] == [(0, 0, "h1", False), (1, 0, "h1", False)]
    assert '"PASSED_ON": "yes"' in (node.folder / "0.env").read_text()


def test_a_death_is_told_at_once_and_the_others_are_ended(node: Node) -> None:
    node.start("fail_with_3")
    node.hear("died")
    first, second = (unpack(end, "h1", 0.0) for end in node.hear("ended")["ranks"])
    assert (second.code, first.ended_s) == (3, None)


def test_more_ranks_than_the_machine_can_hold_are_refused(node: Node) -> None:
    node.start("sleep", 10_000)
    assert "more than this machine can hold" in node.hear("refused")["text"]


def test_an_end_is_the_same_after_its_way_on_the_clock_of_the_launcher() -> None:
    end = RankEnd(3, 7, -9, Verdict("lost", 1, "rank 3 waits.", 100.0), 101.0, lines=["last"])
    there = unpack(pack(end), "h2", -50.0)
    assert there == end._replace(verdict=Verdict("lost", 1, "rank 3 waits.", 50.0), ended_s=51.0, host="h2")


@pytest.mark.parametrize(
    "line", [b"", b"Welcome!\n", b'{"word": "beat"}\n', b"\x1e[1]\n", b'\x1e{"word": 1}\n', b"\x1e{"]
)
def test_what_a_login_shell_prints_is_no_word(line: bytes) -> None:
    assert heard(line) is None
