"""One machine as the launcher reaches it: an ssh, and ``megalm node`` at its other end."""

import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from megalm.errors import UserError
from megalm.launcher.conclusion import RankEnd
from megalm.launcher.hostfile import Slots
from megalm.launcher.ssh.words import Speaker, Word, heard, unpack
from megalm.watch.diagnosis import Fate

OPTIONS = {
    "BatchMode": "yes",  # a question would wait for ever: keys and known hosts are there before, or it is refused
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "no",  # a connection of its own, which nobody else ends
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
}
NOT_CONNECTED = 255
"""ssh's own exit code; any other is what it started there."""

Event = tuple["SshHost", Word | None] | int
"""What came: a word of a host, or ``None`` when it has no more to say; or a signal to the launcher."""


class SshHost:
    """A machine of a run.

    Args:
        place: its name, and how many ranks it gets.
        first: the first of them.
        ssh: the program, with options.
        remote: what to start there, as words.
        directory: where.
        version: of megalm here, and there too.
        events: where what it says goes.
    """

    def __init__(
        self,
        place: Slots,
        first: int,
        ssh: Sequence[str],
        remote: Sequence[str],
        directory: str,
        version: str,
        events: "queue.SimpleQueue[Event]",
    ) -> None:
        """Begin to connect."""
        self.name, self.num_ranks, self.first = place.host, place.slots, first
        self.heard_s = time.monotonic()
        self.ends: list[RankEnd] | None = None
        self.received: list[int] = []
        self.fates: Mapping[int, Fate] = {}
        self.lost: str | None = None
        self.is_there = False
        self._directory, self._remote, self._version = directory, remote, version
        self._clock_s: float | None = None
        self._events = events
        self._told: list[str] = []
        options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        line = f"cd {shlex.quote(directory)} && exec {shlex.join(remote)}"
        try:
            self._process = subprocess.Popen(
                [*ssh, *options, "-T", "--", self.name, line],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,  # Ctrl-C is for the launcher, which hands it on
            )
        except OSError as error:
            raise UserError(f"{ssh[0]} cannot be started ({error.strerror}); install it, or give --ssh.") from error
        assert self._process.stdin is not None
        self._speaker = Speaker(self._process.stdin)  # type: ignore[arg-type]
        self._readers = [
            threading.Thread(target=work, args=(pipe,), daemon=True)
            for work, pipe in ((self._read_words, self._process.stdout), (self._read_errors, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def who(self) -> str:
        """The host and its ranks, for messages."""
        last = self.first + self.num_ranks - 1
        return f"host {self.name} ({f'rank {last}' if self.num_ranks == 1 else f'ranks {self.first} to {last}'})"

    @property
    def over(self) -> bool:
        """Whether no rank of it is waited for."""
        return self.ends is not None or self.lost is not None

    @property
    def may_run_on(self) -> bool:
        """Whether its ranks may run although it was lost: the connection is gone, and what it started may not be."""
        code = self._process.poll()
        return code is None or code < 0 or code == NOT_CONNECTED

    def say(self, word: str, **more: Any) -> None:
        """Tell it something."""
        self._speaker.say(word, **more)

    def hear(self, word: Word) -> None:
        """Take note of a word."""
        if "time" in word:  # the quickest word tells best how its clock goes
            ahead = self.heard_s - word["time"]
            self._clock_s = ahead if self._clock_s is None else min(ahead, self._clock_s)
        if word["word"] == "here":
            self.is_there = True
            if word["version"] != self._version:
                raise UserError(
                    f"host {self.name} has megalm {word['version']} and this machine {self._version}; install the same "
                    "on both."
                )
        elif word["word"] == "refused":
            raise UserError(f"host {self.name}: {word['text']}")
        elif word["word"] == "out":
            print(word["text"], flush=True)
        elif word["word"] == "ended":
            self.ends = [unpack(end, self.name, self._clock_s or 0.0) for end in word["ranks"]]
            self.received = word["received"]
            self.fates = {int(rank): Fate(*fate) for rank, fate in word["fates"].items()}

    def why_not_there(self) -> UserError:
        """Return what kept megalm from starting there: ssh, or that machine, has said it last."""
        code = self._process.wait()
        self._readers[1].join(timeout=1)
        reason = self._told[-1] if self._told else f"exit code {code}"
        if code == NOT_CONNECTED:
            return UserError(
                f"host {self.name} cannot be reached by ssh ({reason}); see that 'ssh -o BatchMode=yes {self.name} "
                "true' works without a question."
            )
        return UserError(
            f"host {self.name} does not start megalm ({reason}); see that {shlex.join(self._remote[:3])} works there "
            f"in {self._directory}, or give --python and --chdir."
        )

    def close(self) -> None:
        """Have no more to say to it: what still runs there ends at once."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def wait_closed(self, until_s: float) -> None:
        """Wait for the ssh to end, and end it when it does not, or when nobody is at its other end."""
        try:
            self._process.wait(timeout=0 if self.lost else max(0.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_words(self, pipe: BinaryIO) -> None:
        with suppress(OSError, ValueError), os.fdopen(os.dup(pipe.fileno()), "rb") as lines:
            for line in lines:
                word = heard(line)
                if word is not None:
                    self.heard_s = time.monotonic()
                    self._events.put((self, word))
        self._events.put((self, None))

    def _read_errors(self, pipe: BinaryIO) -> None:
        with suppress(OSError, ValueError), os.fdopen(os.dup(pipe.fileno()), "rb") as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if self.is_there:
                    print(f"{text}\n", end="", file=sys.stderr, flush=True)
                elif text:
                    self._told.append(text)
