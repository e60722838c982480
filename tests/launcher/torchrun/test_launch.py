"""Oracle: by hand; the loss column of the same run, started by megalm's own launcher, bit for bit."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.torchrun.launch import meeting, parse_nodes, ranks_of_node
from tests.training.test_kills import ROOT, losses, processes_of, start, steps_done, wait_until_gone
from tests.verify.runs import GPT2, run_file

STEPS = 30


def launch(path: Path, run_dir: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "megalm", "launch", "torchrun", str(path), f"run.dir={run_dir}", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_that_is_told_to_end_saves_and_goes_on(tmp_path: Path) -> None:
    """The launcher returns 75 though the agent knows no such end; one of three ranks had nothing to do but to wait."""
    path = tmp_path / "run.yaml"
    train = {"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0}
    path.write_text(
        run_file(GPT2, run={"max_restarts": 2}, layout={"dp": 2}, train=train, checkpoint={"every": 0}).to_yaml()
    )
    local, run_dir = tmp_path / "local", tmp_path / "torchrun"
    first = launch(path, run_dir, "run.elastic=true", "--nproc-per-node=3")
    while steps_done(run_dir) < 3 and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    told, _ = first.communicate(timeout=180)
    assert first.returncode == 75, told
    assert "SIGTERM to the launcher: saved after step" in told
    assert "elastic: dp=2 of 2, 1 of 3 ranks wait" in told
    assert "Traceback" not in told
    second = launch(path, run_dir)
    told, _ = second.communicate(timeout=180)
    assert second.returncode == 0, told
    assert "resumed from step" in told
    assert start(path, local).wait(timeout=180) == 0
    assert losses(run_dir) == losses(local)


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    data = {"train": [{"path": str(tmp_path / "nothing")}]}
    path.write_text(run_file(GPT2, run={"max_restarts": 9}, layout={"dp": 2}, data=data).to_yaml())
    launcher = launch(path, tmp_path / "refused")
    told, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 2, told
    assert "nothing" in told
    assert 1 <= told.count("megalm: ") <= 2, "one sentence, again if torchrun was faster"
    assert "Traceback" not in told


def test_ranks_die_with_the_launcher(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(run_file(GPT2, layout={"dp": 2}, train={"steps": 100_000, "micro_batch_size": 3}).to_yaml())
    run_dir = tmp_path / "killed"
    launcher = launch(path, run_dir)
    while len(processes_of(run_dir)) < 4 and launcher.poll() is None:
        time.sleep(0.01)
    launcher.kill()
    launcher.communicate(timeout=180)
    wait_until_gone(run_dir, 5)


@pytest.mark.parametrize(("text", "nodes"), [("1", (1, 1)), ("2:4", (2, 4)), ("3:3", (3, 3))])
def test_nodes(text: str, nodes: tuple[int, int]) -> None:
    assert parse_nodes(text) == nodes


@pytest.mark.parametrize("text", ["0", "2:1", "1:2:3", "many", "-1", "1:", ""])
def test_no_nodes(text: str) -> None:
    with pytest.raises(UserError, match="--nnodes="):
        parse_nodes(text)


def test_ranks_of_a_node_are_what_the_layout_needs() -> None:
    config = run_file(GPT2, layout={"dp": 2, "tp": 2})
    assert ranks_of_node(config, 2, 2, None) == 2
    assert ranks_of_node(config, 1, 1, 4) == 4
    with pytest.raises(UserError, match="4 ranks do not divide among 3 nodes"):
        ranks_of_node(config, 3, 3, None)
    with pytest.raises(UserError, match="needs 4 ranks, but there are 6"):
        ranks_of_node(config, 2, 2, 3)
    with pytest.raises(UserError, match=r"layout\.tp=2 neighbouring ranks would lie on two machines"):
        ranks_of_node(config, 4, 4, 1)


def test_where_the_nodes_meet() -> None:
    assert meeting(None, 1, None).here
    with pytest.raises(UserError, match="2 nodes need a place to meet"):
        meeting(None, 2, None)
    with pytest.raises(UserError, match=r"no-such-host\.invalid has no address"):
        meeting("no-such-host.invalid:29400", 2, None, patience_s=0)
    for bad in ("host:port", "", "host:1/x", "host:99999"):
        with pytest.raises(UserError, match="is not understood"):
            meeting(bad, 2, None)


def test_this_machine_knows_its_own_address() -> None:
    """Oracle: the kernel, which lets a socket have only the machine's own addresses; TEST-NET-1 is nobody's."""
    assert meeting("127.0.0.1:29400", 2, None).own_address == "127.0.0.1"
    assert meeting("127.0.0.1:29400", 2, None).here
    assert not meeting("192.0.2.1:29400", 2, "127.0.0.1").here
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((meeting("127.0.0.1:29400", 2, None).own_address, 0))
