"""Oracle: what a newcomer should read, one sentence written here by hand, and a stand-in pip that notes its calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READY = "megalm is ready; to use it in this shell: source .venv/bin/activate"

FAKE_PIP = """#!/bin/sh
echo "$*" >>calls.txt
case "$*" in *--version*) exit 0 ;; *"$(cat breaks.txt 2>/dev/null || echo nothing-breaks)"*)
    echo "ERROR: [Errno 28] No space left on device"; exit 1 ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder that holds just what the set-up reads."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/setup.sh", "constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def fake_pip(project: Path) -> Path:
    """Put a stand-in for the environment's interpreter in place; it fails on the words in breaks.txt."""
    write_program(project / ".venv" / "bin" / "python", FAKE_PIP)
    return project


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run_setup(project: Path, purpose: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "TORCH_INDEX", "CXX")}
    out, err = project / "out.txt", project / "err.txt"
    with out.open("w") as stdout, err.open("w") as stderr:  # not pipes, which what was left running would keep open
        done = subprocess.run(
            ["tools/setup.sh", purpose],
            cwd=project,
            env={**inherited, **environment},
            stdout=stdout,
            stderr=stderr,
            timeout=60,
        )
    return subprocess.CompletedProcess(done.args, done.returncode, out.read_text(), err.read_text())


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert READY not in done.stdout
    return done.stderr


def installs(project: Path) -> list[str]:
    calls = (project / "calls.txt").read_text().splitlines()
    return [call.partition("constraints.txt ")[2] for call in calls if " install " in call]


def test_no_python(project: Path) -> None:
    assert "install Python 3.11 or newer" in refusal(run_setup(project, PYTHON="no-such-python"))


def test_old_python(project: Path) -> None:
    old = write_program(project / "old", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    assert "Python 3.9.2 is too old" in refusal(run_setup(project, PYTHON=str(old)))


def test_python_without_ensurepip(project: Path) -> None:
    bare = write_program(project / "bare", '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    assert "lacks venv or ensurepip" in refusal(run_setup(project, PYTHON=str(bare)))


def test_no_compiler(project: Path) -> None:
    assert "no C++ compiler 'no-such-compiler'" in refusal(run_setup(project, CXX="no-such-compiler"))


def test_too_little_disk(project: Path) -> None:
    write_program(project / "bin" / "df", "#!/bin/sh\necho header\necho disk 9000 8900 100 99% /\n")
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    assert "needs about 3000 MiB of disk here and 100 MiB are free" in refusal(run_setup(project, PATH=path))


def test_disk_full_on_the_way_and_going_on_from_there(fake_pip: Path) -> None:
    (fake_pip / "breaks.txt").write_text("--editable")
    told = refusal(run_setup(fake_pip))
    assert "megalm did not succeed (ERROR: [Errno 28] No space left on device)" in told
    (fake_pip / "breaks.txt").unlink()
    (fake_pip / "calls.txt").unlink()
    done = run_setup(fake_pip)
    assert done.stdout.endswith(READY + "\n")
    assert installs(fake_pip) == ["setuptools", "--no-build-isolation --editable ."]


def test_what_is_done_is_not_done_again_until_a_pin_changes(fake_pip: Path) -> None:
    write_program(fake_pip / "bin" / "mmdebstrap", '#!/bin/sh\nfor last; do :; done\ntouch "$last"\n')
    path = f"{fake_pip / 'bin'}:{os.environ['PATH']}"
    assert run_setup(fake_pip, "test", PATH=path).returncode == 0
    assert len(installs(fake_pip)) == 6
    again = run_setup(fake_pip, "test", PATH=path)
    assert again.stdout == READY + "\n"
    assert len(installs(fake_pip)) == 6
    with (fake_pip / "constraints.txt").open("a") as constraints:
        constraints.write("another==1.0\n")
    run_setup(fake_pip)
    assert installs(fake_pip)[6:] == ["setuptools", "--no-build-isolation --editable ."]


def test_a_refusal_waits_for_what_is_collected_beside_it(fake_pip: Path) -> None:
    write_program(fake_pip / "bin" / "id", "#!/bin/sh\necho 0\n")
    write_program(fake_pip / "bin" / "mmdebstrap", '#!/bin/sh\nfor last; do :; done\nsleep 1\ntouch "$last"\n')
    for program in ("apt-get", "podman", "docker", "docker-compose"):
        write_program(fake_pip / "bin" / program, "#!/bin/sh\n")
    (fake_pip / "breaks.txt").write_text("torch==")
    assert "torch==2.13.0" in refusal(run_setup(fake_pip, "test", PATH=f"{fake_pip / 'bin'}:{os.environ['PATH']}"))
    assert (fake_pip / ".venv" / "containers" / "debian.tar").exists()


def test_torch_index_is_for_torch_only(fake_pip: Path) -> None:
    run_setup(fake_pip, TORCH_INDEX="file:///wheels")
    with_index = [call for call in installs(fake_pip) if "file:///wheels" in call]
    assert with_index == ["--force-reinstall --no-deps --index-url file:///wheels torch==2.13.0"]
    assert installs(fake_pip)[1] == "torch==2.13.0"


def test_a_package_cut_off_in_its_installation_is_installed_again(fake_pip: Path) -> None:
    packages = fake_pip / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, files in {"torn-1.dist-info": ["METADATA"], "whole-1.dist-info": ["METADATA", "INSTALLER"]}.items():
        (packages / name).mkdir(parents=True)
        for file in files:
            (packages / name / file).touch()
    run_setup(fake_pip)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


def test_an_unknown_purpose(project: Path) -> None:
    assert "'lunch' is not known" in refusal(run_setup(project, "lunch"))
