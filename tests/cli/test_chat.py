"""Oracle: the plain forward of the saved model on prompts laid out by hand; and for refusals one line each.

What stands on a terminal is what it was sent, what was typed, and the line ends that it makes of both.
"""

import json
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from megalm.cli.main import run
from megalm.data.prepare import prepare
from megalm.generation.generate import generate
from megalm.generation.options import Options
from tests.cli.refusals import assert_refused
from tests.generation.trained import PlainReading, bytes_tokenizer, saved, trained
from tests.verify.multitask_runs import multitask
from tests.verify.runs import GPT2, LLAMA

END, OPEN, CLOSE = 256, 257, 258
NEW = 12
DRAWN = Options(NEW, temperature=1.0, seed=3)
FLAGS = ("--max-new-tokens", str(NEW), "--temperature", "1.0", "--seed", "3")
CHAT = ("--chat", "--template", "chatml", *FLAGS)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def model(run_dir: Path) -> nn.Module:
    made = trained(run_dir, LLAMA, model={"vocab_size": 259, "max_position_embeddings": 120})[1]
    bytes_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>").save(str(run_dir / "tokenizer.json"))
    return made


def conversed(model: nn.Module, dialogues: Sequence[Sequence[str]]) -> str:
    """Return what is said to the lines of dialogues, each of which begins anew."""
    tokenizer, found, number = bytes_tokenizer(), "", 0
    for lines in dialogues:
        said: list[int] = []
        for line in lines:
            question = [OPEN, *tokenizer.encode(f"user\n{line}").ids, CLOSE, *tokenizer.encode("\n").ids]
            said += [*question, OPEN, *tokenizer.encode("assistant\n").ids]
            (answer,) = generate(
                PlainReading(model), [said], DRAWN, lambda tokens: tokens[-1] in (END, CLOSE), first_number=number
            )
            number += 1
            words = [token for token in answer if token < END]
            found += tokenizer.decode(words) + "\n"
            closed = answer[:-1] if answer[-1] in (END, CLOSE) else answer
            said += [*closed, CLOSE, *tokenizer.encode("\n").ids]
    return found


@contextmanager
def typed(text: str) -> Iterator[None]:
    """Let this process read a text."""
    kept = os.dup(0)
    read_end, write_end = os.pipe()
    os.write(write_end, text.encode())
    os.close(write_end)
    os.dup2(read_end, 0)
    os.close(read_end)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_dialogue(run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    with typed("hi\n\nand?\n/reset\nhi\n/exit\nnever read\n"):
        assert run(["generate", str(run_dir), *CHAT], {}) == 0
    assert capfd.readouterr() == (conversed(model, [("hi", "and?"), ("hi",)]), "")


def test_the_oldest_turns_make_room_and_what_is_too_long_is_told(
    run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with typed("a" * 50 + "\n" + "b" * 200 + "\n" + "c" * 50 + "\n"):
        assert run(["generate", str(run_dir), *CHAT], {}) == 2
    out, err = capfd.readouterr()
    assert err.startswith("megalm: a prompt of ")
    assert err.count("\n") == 1
    assert out == conversed(model, [("a" * 50,), ("c" * 50,)])


def test_the_template_of_the_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "a test, as you see"}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    prepare(
        [str(tmp_path / "talks.jsonl")], tmp_path / "data", 300, records="chat", special_tokens="chat", template="ins"
    )
    sizes = {"vocab_size": 300, "max_position_embeddings": 120}
    trained(tmp_path, GPT2, model=sizes, data={"train": [{"path": str(tmp_path / "data")}]})
    capfd.readouterr()
    said = []
    for more in ([], ["--template", "ins"], ["--template", "chatml"]):
        with typed("hi\n"):
            assert run(["generate", str(tmp_path), "--chat", *FLAGS, *more], {}) == 0
        said.append(capfd.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_the_template_of_one_of_several_tasks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "a test, as you see"}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    texts = [{"text": f"this is a text about {label}, and long enough", "label": label} for label in ("cats", "dogs")]
    (tmp_path / "kinds.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    talks, kinds = tmp_path / "talks", tmp_path / "kinds"
    prepare([f"{talks}.jsonl"], talks, 300, records="chat", special_tokens="chat", template="ins")
    prepare([f"{kinds}.jsonl"], kinds, records="labelled", tokenizer=talks / "tokenizer.json")
    asked = {"kinds": {"name": "classify"}, "talks": {"name": "instruct"}}
    tasks = [
        {"name": name, "objective": objective, "data": {"train": [{"path": str(tmp_path / name)}]}, "samples": 6}
        for name, objective in asked.items()
    ]
    tasks[0]["num_labels"] = 2
    saved(tmp_path, multitask(GPT2, tasks, model={"vocab_size": 300, "max_position_embeddings": 120}))
    capfd.readouterr()
    said = []
    for more in ([], ["--task", "talks"], ["--template", "ins"], ["--template", "chatml"]):
        with typed("hi\n"):
            assert run(["generate", str(tmp_path), "--chat", *FLAGS, *more], {}) == 0
        said.append(capfd.readouterr().out)
    assert said[0] == said[1] == said[2] != said[3]


def test_over_ranks_by_a_pipe_that_stays_open(run_dir: Path, model: nn.Module) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "megalm", "generate", str(run_dir), "layout.tp=2", *CHAT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    process.stdin.write("hi\nand?\n/exit\n")
    process.stdin.flush()
    assert process.wait(120) == 0
    out, err = process.communicate()
    assert (out, err) == (conversed(model, [("hi", "and?")]), "")


ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "megalm", *sys.argv[1:]])
"""
"""Takes the terminal as its own, so that Ctrl-C is a signal there."""
CTRL_C, CTRL_D = b"\x03", b"\x04"
LIMIT_S = 120


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._ours, self._theirs = os.openpty()
        self.modes = termios.tcgetattr(self._theirs)
        self._deadline = time.monotonic() + LIMIT_S
        self._pieces: list[bytes] = []
        self._when_typed = 0
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            env={**env, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )

    @property
    def shown(self) -> str:
        """All that stands there, with plain line ends."""
        return self._text(len(self._pieces))

    @property
    def stages(self) -> list[str]:
        """What stood there each time that there was more."""
        return [self._text(count) for count in range(1, len(self._pieces) + 1)]

    def type(self, keys: bytes) -> None:
        """Press keys, when there is a new prompt."""
        while len(self._pieces) == self._when_typed or not self.shown.endswith("> "):
            assert time.monotonic() < self._deadline, self.shown
            assert self._read(0.2) or self.process.poll() is None, self.shown
        self._when_typed = len(self._pieces)
        os.write(self._ours, keys)

    def end(self) -> int:
        """Wait for the end of the command and return its exit code."""
        while self.process.poll() is None:
            assert time.monotonic() < self._deadline, self.shown
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.returncode

    def modes_now(self) -> list[Any]:
        """Return how the terminal is set: whether it echoes, for example."""
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        """Hang up; this ends a command that still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _text(self, count: int) -> str:
        return b"".join(self._pieces[:count]).decode().replace("\r\n", "\n")

    def _read(self, wait_s: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], wait_s)
        if readable:
            self._pieces.append(os.read(self._ours, 4096))
        return bool(readable)


ENDS = {"Ctrl-D": (CTRL_D, 0, "\n"), "Ctrl-C": (CTRL_C, 130, "^Cmegalm: interrupted.\n")}
TP2 = "layout.tp=2"
CASES = [("Ctrl-C", ""), ("Ctrl-C", TP2), ("Ctrl-D", TP2)]
if os.environ.get("MEGALM_TEST_FULL"):
    CASES.append(("Ctrl-D", ""))


@pytest.mark.parametrize(("end", "layout"), CASES)
def test_on_a_terminal(run_dir: Path, model: nn.Module, end: str, layout: str) -> None:
    """Each question is asked for, each answer shown while it grows, and what ends the dialogue is no surprise."""
    first, both = conversed(model, [("hi",)]), conversed(model, [("hi", "and?")])
    second = both.removeprefix(first)
    before = f"> hi\n{first}> and?\n"
    keys, code, last = ENDS[end]
    terminal = Terminal("generate", str(run_dir), *layout.split(), *CHAT)
    try:
        terminal.type(b"hi\n")
        terminal.type(b"and?\n")
        terminal.type(keys)
        assert terminal.end() == code, terminal.shown
        assert terminal.shown == f"{before}{second}> {last}"
        assert terminal.modes_now() == terminal.modes
        within = [(len("> hi\n"), first), (len(before), second)]
        assert any(0 < len(stage) - begin < len(answer) - 1 for stage in terminal.stages for begin, answer in within)
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--chat"], "the data of the run have no template of dialogues"),
        (["--chat", "--prompt", "a"], "--prompt has no effect with --chat"),
        (["--prompt", "a", "--template", "ins"], "--template has no effect without --chat"),
        (["--chat", "--template", "chatmi"], "--template chatmi is not there"),
        (["--chat", "--template", "chatml", "--max-new-tokens", "120"], "leaves no room for a question"),
    ],
)
def test_refusals(
    run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert_refused(capfd, ["generate", str(run_dir), *arguments], sentence)


def test_a_tokenizer_without_the_tokens_of_the_template(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, GPT2, model={"vocab_size": 257})
    for special, sentence in (("<|endoftext|>", "spells <|im_start|>"), ("<nothing>", "no token that ends documents")):
        bytes_tokenizer(special).save(str(tmp_path / "tokenizer.json"))
        assert run(["generate", str(tmp_path), "--chat", "--template", "chatml", "--max-new-tokens", "8"], {}) == 2
        assert sentence in capfd.readouterr().err
