"""Oracle: the losses of the same run on this machine, bit for bit; the engine's own account of image and exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megalm.training import metrics
from tests.cluster.podman import ROOT, Engine, build_context, lacking
from tests.test_kubernetes import manifest, pod_of

IMAGE = "megalm:cpu"
MOST_BYTES = 1.6e9
STEPS = 120
STARTED = 5
PATIENCE_S = 300
NODES = ("node0", "node1")
PROJECT = "megalm-test"
COMPOSE = ROOT / "docker" / "compose.yaml"
CONFIG = {
    "model": {
        **{"family": "gpt2", "num_hidden_layers": 2, "hidden_size": 40, "num_attention_heads": 5},
        **{"vocab_size": 300, "max_position_embeddings": 16, "embd_pdrop": 0.1},
    },
    "layout": {"dp": 2},
    "optimizer": {"lr": 1e-2},
    "data": {"train": [{"path": "data/text"}]},
    "train": {
        **{"steps": STEPS, "global_batch_size": 12, "micro_batch_size": 3, "seq_length": 13},
        **{"precision": "fp32", "eval_every": 0},
    },
    "run": {"timeout": 60},
    "checkpoint": {"every": 50},
}
PREPARE = ("data", "prepare", "/given/text", "--output", "data/text", "--vocab-size", "300", "--validation", "0")
INSIDE = """
echo user $(id -u)
for kept in pip wheel; do ! test -e /opt/megalm/lib/python3*/site-packages/$kept || echo left $kept; done
for kept in /build /given /root/.cache /var/cache/apt/archives/*.deb /var/lib/apt/lists/*_*; do
    ! test -e "$kept" || echo left "$kept"
done
find /opt -type d -name tests
! touch /opt/megalm/written 2>/dev/null || echo the environment can be written
touch /workspace/written && echo the workspace can be written
/opt/megalm/bin/python -c '
from megalm.launcher.templates import template
from megalm.launcher.threads import usable_cores
print("cores", usable_cores())
template("slurm.sbatch")'
"""


def steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(metrics.rows(path)) if path.exists() else 0


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in metrics.rows(run_dir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Start an engine, and build the image that all tests here run."""
    if (reason := lacking()) is not None:
        pytest.skip(reason)
    with Engine(tmp_path_factory.mktemp("engine")) as running:
        began = time.monotonic()
        running.build(build_context(tmp_path_factory.mktemp("context")), IMAGE)
        print(f"docker build: {time.monotonic() - began:.0f} s")
        yield running


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the containers read, ``text`` and ``run.yaml``, beside ``here``: that run on this machine."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "text").mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        (folder / "text" / f"{page.stem}.txt").write_text(page.read_text())
    (folder / "run.yaml").write_text(json.dumps(CONFIG))
    folder.chmod(0o755)
    prepare = [word.replace("/given", str(folder)) for word in PREPARE]
    for command in (prepare, ["train", str(folder / "run.yaml"), "run.dir=here"]):
        here = [sys.executable, "-m", "megalm", *command]
        done = subprocess.run(
            here,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_the_image(engine: Engine) -> None:
    """Oracle: what docker/README.md promises of it."""
    (image,) = json.loads(engine.must("image", "inspect", IMAGE))
    print(f"{IMAGE}: {image['Size'] / 1e9:.2f} GB")
    assert image["Size"] < MOST_BYTES
    assert image["Config"]["Entrypoint"] == ["tini", "--", "megalm"], "in exec form, or no signal reaches the run"
    assert image["Config"]["Labels"]["org.opencontainers.image.title"] == "megalm"
    inside = engine.must("run", "--rm", "--network=none", "--cpus=1", "--entrypoint=sh", IMAGE, "-c", INSIDE)
    assert inside.splitlines() == ["user 10001", "the workspace can be written", "cores 1"]
    container = engine.must("create", IMAGE)
    config: dict[str, Any] = json.loads(engine.must("inspect", container))[0]["Config"]
    kind, *check = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    version = engine.must("run", "--rm", "--network=none", f"--entrypoint={check[0]}", IMAGE, *check[1:])
    assert version.startswith("megalm ")
    assert not [line for line in engine.must("history", "--no-trunc", IMAGE).splitlines() if "PIP_" in line]


def test_what_kubernetes_and_apptainer_run_is_in_the_image(engine: Engine) -> None:
    """Oracle: the sections of the definition file and the commands of the manifests, run by the image's shell."""
    sections = re.split(r"^%(\w+)\n", (ROOT / "docker" / "apptainer.def").read_text(), flags=re.MULTILINE)
    script = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(script) == {"arguments", "help", "environment", "runscript", "test"}
    waits = [
        container["command"][-1]
        for name in ("jobset", "pytorchjob")
        for container in pod_of(manifest(name))["spec"]["initContainers"]
    ]
    hosts = [f"--add-host={wait.split()[3].rstrip(';')}:10.0.0.1" for wait in waits]
    inside = "\n".join([*waits, script["environment"], script["test"], "set -- --version", script["runscript"]])
    told = engine.must("run", "--rm", "--network=none", *hosts, "--entrypoint=sh", IMAGE, "-ec", inside).splitlines()
    assert [line.split()[0] for line in told] == ["10.0.0.1", "10.0.0.1", "megalm", "megalm"]


def test_two_containers_train_are_stopped_and_go_on_as_this_machine(
    engine: Engine, given: Path, tmp_path: Path
) -> None:
    """Oracle: also exit code 75, of a run that was asked to end and has saved, in the node that was not asked too."""
    train = "launch torchrun /given/run.yaml run.dir=runs/two --nnodes=2 --rdzv-endpoint=node0:29400"
    mount = [f"{given}:/given:ro"]
    services = {name: {"command": train, "volumes": mount} for name in NODES}
    services["corpus"] = {"command": " ".join(PREPARE), "volumes": mount}
    override = tmp_path / "override.yaml"
    override.write_text(json.dumps({"services": services}))
    compose = partial(engine.compose, f"--file={COMPOSE}", f"--file={override}", f"--project-name={PROJECT}")

    def codes() -> list[int]:
        containers = (f"{PROJECT}_{node}_1" for node in NODES)
        return [json.loads(engine.must("inspect", name))[0]["State"]["ExitCode"] for name in containers]

    started = compose("up", "--no-build", "--detach", timeout=PATIENCE_S)
    assert started.returncode == 0, started.stderr
    run_dir = Path(engine.must("volume", "inspect", "--format={{.Mountpoint}}", f"{PROJECT}_work")) / "runs" / "two"
    end = time.monotonic() + PATIENCE_S
    while steps_done(run_dir) < STARTED and time.monotonic() < end:
        time.sleep(0.02)
    engine.must("stop", f"--time={PATIENCE_S}", f"{PROJECT}_{NODES[0]}_1")  # as when one machine is drained
    engine.must("wait", f"{PROJECT}_{NODES[1]}_1")
    said = "".join(engine.docker("logs", f"{PROJECT}_{node}_1").stderr for node in NODES)
    assert codes() == [75, 75], said
    done = steps_done(run_dir)
    assert STARTED <= done < STEPS
    assert f"SIGTERM to the launcher: saved after step {done} of {STEPS}" in (run_dir / "log.txt").read_text()

    up = compose("up", "--no-build", timeout=PATIENCE_S)
    assert codes() == [0, 0], up.stdout + up.stderr
    assert losses(run_dir) == losses(given / "here")
    assert compose("down", "--volumes").returncode == 0
