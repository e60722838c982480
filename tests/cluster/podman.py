"""Podman in the place of a Docker engine: it speaks Docker's protocol, so the client and compose are the real ones.

All that it keeps lies in one folder and is gone with it. No registry is asked: the base of an image is a bare Debian
under the name that the Dockerfile gives it, and packages lie in the build's context; both are made by tools/setup.sh.
"""

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ROOT / ".venv" / "containers"
PROGRAMS = ("docker", "docker-compose", "podman", "crun", "iptables")
PACKAGES = "podman netavark aardvark-dns crun iptables mmdebstrap docker-compose"
LOCK = Path("/run/lock/megalm-podman")
"""Held as long as an engine is up: its bridges have names of their own on this machine."""
RUN = Path("/run/megalm-podman")
"""What lasts as long as an engine: where the path has more than 50 characters, podman takes no ended container away."""
BASE = "debian:bookworm-slim"
CONTEXT = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "setup.py", ".dockerignore")
LIMIT = 4096
"""Of files and processes: podman asks for more than a machine without the right to raise limits grants."""
IDLE_S = 300
"""The engine ends by itself after so long without a client, should the tests be killed."""
CONTAINERS_CONF = """
[containers]
default_ulimits = [{limits}]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{run}"
"""
SERVICE = """
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
exec podman system service --time={idle} unix://{folder}/socket
"""
"""In mounts of its own: where both versions of cgroups are mounted, crun takes the second for the only one."""


def lacking() -> str | None:
    """Return what this machine lacks, in a sentence, or ``None``."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    programs = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if programs:
        return f"needs {', '.join(programs)}: apt-get install {PACKAGES}, and Docker's client (docker.io)"
    if os.geteuid() != 0:
        return "needs root, to run containers with networks of their own"
    if not (PARTS / "debian.tar").exists() or not (PARTS / ".wheels").exists():
        return f"needs what images are made from in {PARTS.relative_to(ROOT)}: tools/setup.sh test, with a CPU torch"
    return None


class Engine:
    """A container engine that knows one image, the bare Debian.

    Args:
        folder: an empty one on a disk with 5 GiB to spare.
    """

    def __init__(self, folder: Path) -> None:
        """See the class."""
        self.folder = folder
        self._env = {**os.environ, "DOCKER_HOST": f"unix://{folder}/socket", "DOCKER_BUILDKIT": "0"}

    def __enter__(self) -> "Engine":
        """Start the service, and give it the bare Debian."""
        self._lock = LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        limits = ", ".join(f'"{name}={LIMIT}:{LIMIT}"' for name in ("nofile", "nproc"))
        for name, text in (("containers", CONTAINERS_CONF), ("storage", STORAGE_CONF)):
            (self.folder / f"{name}.conf").write_text(text.format(folder=self.folder, run=RUN, limits=limits))
        env = {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }
        command = ["unshare", "--mount", "sh", "-ec", SERVICE.format(folder=self.folder, idle=IDLE_S)]
        with (self.folder / "log").open("w") as log:
            self._service = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_for_socket()
            self.must("import", str(PARTS / "debian.tar"), BASE)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all containers and the service, and take away what they kept."""
        containers = self.docker("ps", "--all", "--quiet").stdout.split()
        if containers:
            self.docker("rm", "--force", *containers)
        self._service.terminate()
        self._service.wait(timeout=30)
        for folder in (self.folder, RUN):
            shutil.rmtree(folder, ignore_errors=True)
        self._lock.close()

    def docker(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run Docker's client and return how it ended."""
        return subprocess.run(["docker", *arguments], env=self._env, capture_output=True, text=True, **options)

    def must(self, *arguments: str) -> str:
        """Run Docker's client and return what it printed.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        done = self.docker(*arguments)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def compose(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run compose and return how it ended."""
        command = ["docker-compose", "--no-ansi", *arguments]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, **options)

    def build(self, context: Path, tag: str) -> str:
        """Build an image as docker/README.md says, and return what the client printed.

        Raises:
            RuntimeError: it failed.
        """
        arguments = {"BASE": BASE, "PIP_NO_INDEX": "1"}
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        # On the machine's own network, since Debian's packages come from there.
        return self.must(
            *("build", "--network=host", "--pull=false", f"--file={context}/docker/Dockerfile", f"--tag={tag}"),
            *(*given, str(context)),
        )

    def _wait_for_socket(self) -> None:
        end = time.monotonic() + 20
        while not (self.folder / "socket").exists():
            if self._service.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"podman's service did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)


def build_context(folder: Path) -> Path:
    """Lay out what an image is built from, with packages in ``docker/wheels``, and return the folder."""
    for name in CONTEXT:
        shutil.copy2(ROOT / name, folder / name)
    for name in ("docker", "launch", "megalm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for wheel in (PARTS / "wheels").glob("*.whl"):
        try:
            os.link(wheel, folder / "docker" / "wheels" / wheel.name)
        except OSError:  # on another disk
            shutil.copy2(wheel, folder / "docker" / "wheels" / wheel.name)
    return folder
