"""One machine's side of a run over many: starts that machine's ranks, and ends them when nobody is there to answer for.

It talks over its own stdin and stdout, which the launcher at the other end of an ssh has. The ranks end when stdin is
closed, for an ssh that dies leaves what it started behind; and when nothing was heard for so long that the link must be
cut, for then nothing closes.
"""

import os
import queue
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from megalm.errors import UserError
from megalm.launcher.local import LocalRanks, Share, check_room
from megalm.launcher.network import LOOPBACK, resolve
from megalm.launcher.signals import heard_by
from megalm.launcher.ssh.words import Speaker, Word, beat_s, heard, pack

LAST_WORDS_S = 5.0
"""How long the end may take once nobody listens."""


def serve(version: str, link_timeout_s: float) -> int:
    """Do what the launcher at the other end says, until it has no more to say; return the exit code.

    Args:
        version: of this megalm.
        link_timeout_s: the ranks are ended when nothing was heard for so long.
    """
    return _Node(link_timeout_s).run(version)


class _Node:
    """This machine."""

    def __init__(self, link_timeout_s: float) -> None:
        self._link_timeout_s = link_timeout_s
        self._orders: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        self._ranks: LocalRanks | None = None
        self._early: list[Word] = []
        self._lock = threading.Lock()
        self._lost = False
        self._speaker = Speaker(os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0))
        end, out = os.pipe()
        os.dup2(out, sys.stdout.fileno())  # what rank 0 prints becomes words among the others
        os.close(out)
        self._out = threading.Thread(target=self._pass_on, args=(os.fdopen(end, "rb"),), daemon=True)

    def run(self, version: str) -> int:
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()
        self._out.start()
        self._speaker.say("here", version=version, pid=os.getpid(), time=time.monotonic())
        listener: socket.socket | None = None
        while (order := self._orders.get()) is not None:
            try:
                if order["word"] == "listen":
                    listener = _meeting_place(order["host"], order["alone"], order["num_ranks"])
                    address, port = listener.getsockname()[:2]
                    self._speaker.say("listens", address=address, port=port)
                elif order["word"] == "start":
                    return self._run_ranks(order, listener)
            except UserError as error:
                self._speaker.say("refused", text=str(error))
        return 0

    def _run_ranks(self, order: Word, listener: socket.socket | None) -> int:
        share = Share(*order["share"])
        check_room(share.num_ranks)
        env = {**os.environ, **order["env"]}
        ranks = LocalRanks(
            order["command"], env, share, listener, Path(order["run_dir"]), lambda: self._speaker.say("died")
        )
        with self._lock:
            self._ranks = ranks
        for early in self._early:
            self._obey(early)
        if self._lost:
            return 1
        with heard_by(ranks.receive):
            ends = ranks.run()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        self._out.join(timeout=LAST_WORDS_S)  # a rank's own child may hold the pipe open
        self._speaker.say(
            "ended",
            ranks=[pack(end) for end in ends],
            fates={} if ranks.seen is None else ranks.seen.fates,
            received=ranks.received,
            time=time.monotonic(),
        )
        while self._orders.get() is not None:  # until the launcher has heard it
            pass
        return 0

    def _listen(self) -> None:
        """Hear words until stdin is closed or silent."""
        stdin, rest = sys.stdin.fileno(), b""
        while select.select([stdin], [], [], self._link_timeout_s)[0]:
            data = os.read(stdin, 2**16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._obey(heard(line))
        self._lost = True
        self._orders.put(None)
        if self._ranks is not None:
            self._ranks.end(patience_s=0)
        time.sleep(LAST_WORDS_S)
        os._exit(1)  # a word may be stuck in a pipe that nobody reads

    def _obey(self, order: Word | None) -> None:
        if order is None or order["word"] == "beat":
            return
        if order["word"] not in ("signal", "end"):
            self._orders.put(order)
            return
        with self._lock:
            if self._ranks is None:  # they are about to start
                self._early.append(order)
            elif order["word"] == "signal":
                self._ranks.hand_on(order["number"])
            else:
                self._ranks.end()

    def _beat(self) -> None:
        while not self._lost:
            self._speaker.say("beat", time=time.monotonic())
            time.sleep(beat_s(self._link_timeout_s))

    def _pass_on(self, stream: BinaryIO) -> None:
        for line in stream:
            self._speaker.say("out", text=line.decode(errors="replace").rstrip("\n"))


def _meeting_place(host: str, is_alone: bool, num_ranks: int) -> socket.socket:
    """Return a socket that listens on one address of this machine, on a port that is free.

    Args:
        host: the name by which the others know this machine.
        is_alone: whether there are no others.
        num_ranks: of the run.
    """
    address = LOOPBACK
    if not is_alone:
        with suppress(OSError):
            address = str(resolve(host))
        if address.startswith("127.") and "SSH_CONNECTION" in os.environ:
            address = os.environ["SSH_CONNECTION"].split()[2]  # where the launcher reached this machine
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, 0), family=family, backlog=max(128, num_ranks))
    except OSError as error:
        raise UserError(
            f"it cannot listen on {address} ({error.strerror}), which its name {host} stands for there; give the "
            "hostfile a name that all machines resolve alike."
        ) from error
