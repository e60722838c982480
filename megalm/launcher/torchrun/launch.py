"""``megalm launch torchrun``: torch's own torchrun on this machine, with ``megalm train`` as its program.

One such command runs on each node. What is set here is what goes wrong unsaid: where the nodes meet and by which
address this one is known there, time-outs that suit a run of hours, threads, restarts, and what becomes of signals.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from megalm.errors import UserError
from megalm.launcher.exit_codes import FAILED, PREEMPTED, REFUSED, SIGNALLED
from megalm.launcher.job import LAUNCHED, Job
from megalm.launcher.meeting import NAME_PATIENCE_S
from megalm.launcher.nodes import check_groups, check_nodes
from megalm.launcher.restarts import Trace
from megalm.launcher.signals import heard_by
from megalm.launcher.threads import threads_per_rank
from megalm.launcher.torchrun.elastic import fit
from megalm.launcher.torchrun.notes import FOLDER, Notes
from megalm.run_config import RunConfig
from megalm.training.config import RunSection

POLL_S = 0.1
STARTING_S = 3.0
"""After a request to end: how long ranks that just start may take to be seen."""
ELASTIC_RESTARTS = 20
"""Of an elastic run that does not say how many: each machine that is lost costs one."""
LEAST_SHUTDOWN_S = 15
"""Until a rank that was told to end is killed, if a save needs no longer."""
DEAF = ("sh", "-c", 'trap "" USR1 USR2; exec "$@"', "torchrun")
"""Slurm signals the whole family, and torch's agent, which knows no such signal, would die of it."""
CONFIGURATION = {
    "last_call_timeout": "5",  # a node that comes later makes the ranks start again
    "keep_alive_interval": "2",
    "keep_alive_max_attempt": "5",  # a node is gone 10 s after its last sign
    "read_timeout": "120",  # nodes are not started in the same second
}
"""Of the rendezvous, in seconds."""


@dataclass(frozen=True)
class Meeting:
    """Where the nodes meet.

    Args:
        endpoint: ``HOST:PORT``, as torchrun takes it.
        here: whether this machine is that host.
        own_address: of this machine, as the others reach it.
    """

    endpoint: str
    here: bool
    own_address: str


def meeting(
    endpoint: str | None, num_nodes: int, own_address: str | None, patience_s: float = NAME_PATIENCE_S
) -> Meeting:
    """Return where the nodes meet.

    Args:
        endpoint: ``HOST:PORT`` of one of them, the same on all; may be left out for one node.
        num_nodes: that may take part.
        own_address: of this machine; ``None`` for the address from which the endpoint is reached.
        patience_s: how long the host's name may be unknown.

    Raises:
        UserError: it is not given, cannot be read, or its host has no address.
    """
    if endpoint is None:
        if num_nodes > 1:
            raise UserError(
                f"{num_nodes} nodes need a place to meet; give --rdzv-endpoint HOST:PORT, the same on all, where HOST "
                "is the node that stays longest."
            )
        return Meeting("localhost:0", True, "127.0.0.1")
    try:
        parts = urlsplit(f"//{endpoint}")
        host, port = parts.hostname, parts.port or 29400
    except ValueError:
        host = None
    if host is None or parts.path:
        raise UserError(f"--rdzv-endpoint={endpoint!r} is not understood; give HOST:PORT.")
    family, address = _find(host, port, patience_s)
    return Meeting(endpoint, _is_here(family, address), own_address or _address_towards(family, address))


def _find(host: str, port: int, patience_s: float) -> tuple[int, Any]:
    """Return the family and the address of a host, as the socket module has them."""
    end = time.monotonic() + patience_s
    while True:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            return family, address
        except OSError as error:
            if time.monotonic() >= end:
                raise UserError(
                    f"--rdzv-endpoint: {host} has no address ({error.strerror}); name a host that has."
                ) from error
        time.sleep(0.5)


def _is_here(family: int, address: Any) -> bool:
    """Whether an address is one of this machine's: only then can a socket have it."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
        return True


def _address_towards(family: int, address: Any) -> str:
    """Return this machine's address on the way to another; nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise UserError(
                f"--rdzv-endpoint: no network leads to {address[0]} ({error.strerror}); give --local-addr."
            ) from error
        return str(probe.getsockname()[0])


def parse_nodes(text: str) -> tuple[int, int]:
    """Return the least and the largest number of nodes: ``2`` or ``1:2``.

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UserError(f"--nnodes={text} is not understood; give a number of nodes, or MIN:MAX for an elastic run.")
    return least, most


def ranks_of_node(config: RunConfig, least: int, most: int, asked: int | None) -> int:
    """Return how many ranks each node has: what is asked, or what the layout needs of ``most`` nodes.

    Raises:
        UserError: the layout does not fit on so many nodes, or their number may change and the run is not elastic.
    """
    layout, elastic = config.layout, config.run.elastic
    if least < most and not elastic:
        raise UserError(
            f"--nnodes={least}:{most} lets the number of nodes change; set run.elastic=true, or give one number."
        )
    if asked is None and layout.world_size % most:
        raise UserError(
            f"the layout's {layout.world_size} ranks do not divide among {most} nodes; change the layout, or --nnodes."
        )
    found = asked or layout.world_size // most
    if elastic:
        fit(config, least * found)
        check_groups(layout, [found] * most, config.tensor.across_nodes)
    else:
        check_nodes(layout, [found] * most, config.tensor.across_nodes)
    return found


def run(
    config: RunConfig,
    train: Sequence[str],
    nodes: str,
    ranks_per_node: int | None,
    endpoint: str | None,
    rdzv_id: str,
    own_address: str | None,
    configuration: str,
) -> int:
    """Run torchrun on this node until it ends; return the exit code of the run.

    Args:
        config: the run.
        train: arguments of ``megalm train``.
        nodes: ``--nnodes``.
        ranks_per_node: of each node; ``None`` for what the layout needs.
        endpoint: see ``meeting``.
        rdzv_id: tells runs apart that meet at the same place.
        own_address: see ``meeting``.
        configuration: more of torchrun's ``--rdzv-conf``, which wins over ``CONFIGURATION``.

    Raises:
        UserError: the layout does not fit the nodes, or the nodes cannot meet.
    """
    least, most = parse_nodes(nodes)
    ranks = ranks_of_node(config, least, most, ranks_per_node)
    restarts = config.run.max_restarts or (ELASTIC_RESTARTS if config.run.elastic else 0)
    if restarts and config.checkpoint.resume != "auto":
        raise UserError(
            f"checkpoint.resume={config.checkpoint.resume} would begin there again at every restart of torchrun's; use "
            "checkpoint.resume=auto in a new run.dir, with checkpoint.load, or leave run.max_restarts and run.elastic."
        )
    place = meeting(endpoint, most, own_address)
    settings = {**CONFIGURATION, **({"is_host": "1"} if place.here else {})}
    conf = ",".join(
        [*(f"{key}={value}" for key, value in settings.items()), *([configuration] if configuration else [])]
    )
    command = [
        *DEAF,
        *(sys.executable, "-m", "megalm.launcher.torchrun.agent"),
        f"--nnodes={least}:{most}",
        f"--nproc-per-node={ranks}",
        f"--rdzv-backend={'megalm' if restarts else 'c10d'}",
        f"--rdzv-endpoint={place.endpoint}",
        f"--rdzv-id={rdzv_id}",
        f"--rdzv-conf={conf}",
        f"--local-addr={place.own_address}",
        f"--max-restarts={restarts}",
        f"--shutdown-timeout={max(LEAST_SHUTDOWN_S, config.checkpoint.before_limit)}",
        *("-m", "megalm", "train", *train),
    ]
    if place.here and LAUNCHED not in os.environ:
        Job.here("torchrun").write(Path(config.run.dir))
    env = {
        "OMP_NUM_THREADS": str(threads_per_rank(ranks)),
        "LOGLEVEL": "ERROR",
        **os.environ,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torch 2.13: with a shared store a node that returns is not let in
    }
    return _Agent(command, env, config.run, leaves=least < most and not place.here).run()


class _Agent:
    """torchrun's agent on this machine.

    Args:
        command: what to start.
        env: its environment.
        run: the run's own section.
        leaves: whether SIGTERM is meant for this node alone, and the others go on without it.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], run: RunSection, *, leaves: bool) -> None:
        self._command, self._env, self._leaves = command, env, leaves
        self._stop_signals = [signal.Signals[name] for name in run.stop_signals]
        self._run_dir = Path(run.dir)
        self._before = Trace.of(self._run_dir)
        self._received: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None
        self._idle = self._is_ending = False

    def run(self) -> int:
        """Start it, hand signals on to it, and return how the run ended."""
        with (
            tempfile.TemporaryDirectory(prefix="megalm-torchrun-") as folder,
            heard_by(self._receive, {signal.SIGINT, signal.SIGTERM, *self._stop_signals}),
        ):
            self._notes = Notes(Path(folder))
            self._process = subprocess.Popen(
                self._command, env={**self._env, FOLDER: folder}, stdin=subprocess.DEVNULL, process_group=0
            )
            if self._received is not None:  # before there was an agent
                self._hand_on(self._received)
            return self._conclude(self._wait(self._process))

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        while True:
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if self._waits_for_nothing():
                    self._end_agent()

    def _waits_for_nothing(self) -> bool:
        """Whether the agent is to end: for other nodes it waits in vain, or to start ranks that would refuse again."""
        asked = self._asked_at
        if asked is not None and time.monotonic() - asked > STARTING_S and not self._notes.ranks():
            self._idle = True  # nothing is to be saved
        return self._idle or (self._notes.refused and Trace.of(self._run_dir).metrics == self._before.metrics)

    def _end_agent(self) -> None:
        """Let it end its ranks, which may save; a second signal would make it forget them."""
        assert self._process is not None
        if not self._is_ending:
            self._is_ending = True
            self._process.send_signal(signal.SIGTERM)

    def _conclude(self, code: int) -> int:
        if self._notes.saved or (self._idle and self._received in self._stop_signals):
            return PREEMPTED
        if self._notes.refused:
            return REFUSED
        if self._received is not None and code:
            return SIGNALLED + self._received
        return FAILED if code else 0

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received = signal.Signals(number)
        if self._process is not None:
            self._hand_on(self._received)

    def _hand_on(self, number: signal.Signals) -> None:
        assert self._process is not None
        if number not in self._stop_signals:
            self._process.send_signal(number)
        elif self._leaves and number == signal.SIGTERM:
            self._idle = self._idle or not self._notes.ranks()
            self._end_agent()
        else:
            self._notes.ask(f"{number.name} to the launcher")
            self._asked_at = self._asked_at or time.monotonic()
