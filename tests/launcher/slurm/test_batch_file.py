"""Oracle: the real bash, in which the batch file runs with small programs in the place of Slurm's; sh's quoting."""

import itertools
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.launcher.slurm.batch_file import TEMPLATE, Request, fill, job_name
from megalm.launcher.templates import template
from tests.launcher.slurm.batch import Bash, directives, text_of

EXAMPLES = 200 if os.environ.get("MEGALM_TEST_FULL") else 20
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
NAMES = st.text(st.characters(exclude_characters="\0/\\", exclude_categories=["C", "Z", "M"]), min_size=1, max_size=20)
ARRAY = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory of a job with its run directory."""
    (tmp_path / "job" / "run").mkdir(parents=True)
    return tmp_path / "job"


def saves(step: int) -> str:
    """Return sh that leaves a complete checkpoint."""
    return f"mkdir -p run/checkpoints/step-{step:08d}; touch run/checkpoints/step-{step:08d}/complete"


def tells(code: int) -> str:
    """Return sh that leaves word of an end."""
    return f"echo '{code} why' >run/ended"


@settings(deadline=None, max_examples=EXAMPLES)
@given(name=NAMES, words=st.lists(WORDS, max_size=4))
@example(name="x; touch pwned", words=["$(touch pwned)", "`touch pwned`", "; touch pwned", "&& touch pwned"])
@example(name="$(touch pwned)", words=["'; touch pwned; '", '"; touch pwned; "', "\\'; touch pwned #", "!!"])
@example(name="-rf", words=["-rf", "--help", "a\n#SBATCH --uid=0\ntouch pwned\n", "\r", "\x1b[2J", "\\"])
@example(name="né #1 'a' \"b\" %j%a", words=["\udcff\udcfe", "ñ 中", "*", "~", "{a,b}", "%a", "", " "])
@example(name="a", words=["\n'; touch pwned; '", "\t\\", "\n\\'; touch pwned #"])
def test_no_name_and_no_word_does_anything_in_a_shell(name: str, words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "job"
        run_dir = folder / name
        run_dir.mkdir(parents=True)
        text = text_of(folder, words, run={"dir": name})
        done = Bash(folder, text)
        (started,) = done.started
        assert started[started.index("python3") :] == ["python3", "-m", "megalm", "train", "--", *words]
        assert [path.name for path in folder.iterdir()] == [name]
        assert [path.name for path in run_dir.iterdir()] == ["slurm-starts"]
        found = directives(text)
        assert found["output"] == str(folder).replace("%", "%%") + f"/{name.replace('%', '%%')}/slurm-%j.log"
        assert found.keys() == directives(text_of(folder)).keys()


def test_in_an_array_a_word_says_the_number_of_the_task(folder: Path) -> None:
    (folder / "run-7").mkdir()
    text = text_of(folder, ["run-%a/f", "a=%a%a", "%"], Request(2, 2, "60", array="0-7"), run={"dir": "run-%a"})
    done = Bash(folder, text, env=ARRAY)
    assert done.started[0][-3:] == ["run-7/f", "a=77", "%"]
    assert directives(text)["output"].endswith("/run-%a/slurm-%A_%a.log")
    assert (folder / "run-7" / "slurm-starts").read_text().startswith("12_7 ")


@pytest.mark.parametrize(
    ("style", "told", "ended_with", "code", "requeued"),
    [
        ("tasks", None, 0, 0, False),
        ("tasks", None, 1, 1, False),
        ("tasks", None, 2, 2, False),
        ("tasks", None, 75, 75, True),
        ("tasks", 75, 137, 75, True),
        ("torchrun", 75, 1, 75, True),
        ("torchrun", 0, 1, 0, False),
        ("torchrun", None, 1, 1, False),
    ],
)
def test_only_a_preempted_run_is_requeued(
    folder: Path, style: str, told: int | None, ended_with: int, code: int, requeued: bool
) -> None:
    """Oracle: the table of exit codes, which torchrun does not keep."""
    (folder / "run" / "ended").write_text("75 an end of long ago\n")
    steps = [f"{tells(told)}; exit {ended_with}" if told is not None else f"exit {ended_with}"]
    done = Bash(folder, text_of(folder, request=Request(2, 2, "60", style=style)), steps)  # type: ignore[arg-type]
    assert done.code == code
    assert done.requeued == ("requeue 12" if requeued else "")
    assert ("torchrun" in done.started[0]) == (style == "torchrun")


@pytest.mark.parametrize(
    ("signal", "ended_with", "requeued"),
    [("USR1", 75, True), ("TERM", 75, False), ("USR1", 138, True), ("USR1", 1, False), ("TERM", 1, False)],
)
def test_a_signal_to_the_batch_file_reaches_the_ranks(
    folder: Path, signal: str, ended_with: int, requeued: bool
) -> None:
    """Oracle: the last of srun's words: it ends only when it is told to, however often its parent is signalled."""
    again = f"for i in 1 2 3; do kill -{signal} $PPID; sleep 0.05; done"
    step = f"trap 'exit {ended_with}' TERM; {again}; sleep 20 >/dev/null 2>&1 & wait"
    done = Bash(folder, text_of(folder), [step])
    assert done.asked == ["--signal=USR1 12"]
    assert done.code == ended_with
    assert done.requeued == ("requeue 12" if requeued else "")


@pytest.mark.parametrize(("signals", "asked"), [(["SIGTERM", "SIGUSR2"], "USR2"), (["SIGTERM"], "TERM"), ([], "TERM")])
def test_the_ranks_are_asked_by_a_signal_that_they_hear(folder: Path, signals: list[str], asked: str) -> None:
    text = text_of(folder, run={"dir": "run", "stop_signals": signals})
    done = Bash(folder, text, ["trap 'exit 75' TERM; kill -USR1 $PPID; sleep 20 >/dev/null 2>&1 & wait"])
    assert done.asked == [f"--signal={asked} 12"]


@pytest.mark.parametrize("signal", ["USR1", "USR2"])
def test_a_rank_that_is_starting_does_not_die_of_a_request(folder: Path, signal: str) -> None:
    """Oracle: a rank that has not said yet what it does with signals."""
    rank = folder.parent / "rank"
    rank.write_text(f"#!/bin/sh\nkill -{signal} $$\nexit 75\n")
    rank.chmod(0o755)
    start = 'while [ "$1" != sh ]; do shift; done; exec "$@"'
    assert Bash(folder, text_of(folder).replace("python=python3", f"python={rank}"), [start]).code == 75


def test_a_request_that_slurm_puts_off_ends_with_the_step(folder: Path) -> None:
    """Oracle: the next start of the job, which would hear it."""
    step = 'kill -USR1 "$PPID"; sleep 0.5; echo 75 >"run/ended"; exit 1'
    done = Bash(folder, text_of(folder), [step], env={"PUT_OFF_S": "1.5"})
    assert done.requeued == "requeue 12"
    time.sleep(1.5)
    assert done.asked == []


def test_a_task_of_an_array_signals_and_requeues_itself_alone(folder: Path) -> None:
    """Oracle: the number of one task has the whole array's number as its job id."""
    (folder / "run-7").mkdir()
    text = text_of(folder, request=Request(2, 2, "60", array="0-7"), run={"dir": "run-%a"})
    done = Bash(folder, text, ["trap 'exit 75' TERM; kill -USR1 $PPID; sleep 20 >/dev/null 2>&1 & wait"], env=ARRAY)
    assert done.asked == ["--signal=USR1 12_7"]
    assert done.requeued == "requeue 12_7"


def test_a_request_between_two_steps_is_heard(folder: Path) -> None:
    text = text_of(folder, run={"dir": "run", "max_restarts": 3})
    done = Bash(folder, text, ["(sleep 0.5; kill -USR1 $PPID) >/dev/null 2>&1 & exit 1", "exit 0"])
    assert len(done.started) == 1
    assert done.code == 1


def test_what_failed_is_started_again_so_often(folder: Path) -> None:
    text = text_of(folder, ["f", "checkpoint.resume=never"], run={"dir": "run", "max_restarts": 1})
    done = Bash(folder, text, ["exit 1", "exit 3", "exit 0"])
    assert (done.code, len(done.started)) == (3, 2)
    assert done.started[1][-1] == "checkpoint.resume=never"


def test_a_restart_goes_on_from_what_the_job_has_saved(folder: Path) -> None:
    """Oracle: checkpoint.resume=never, which would begin anew each time, and for ever."""
    text = text_of(folder, ["f", "checkpoint.resume=never"], run={"dir": "run", "max_restarts": 1})
    done = Bash(folder, text, [f"{saves(10)}; exit 1", "exit 75"])
    assert done.started[0][-1] == "checkpoint.resume=never"
    assert done.started[1][-1] == "checkpoint.resume=auto"
    again = Bash(folder, text, ["exit 0"])
    assert again.started[0][-1] == "checkpoint.resume=auto"
    other = Bash(folder, text, ["exit 0"], env={"SLURM_JOB_ID": "13"})
    assert other.started[0][-1] == "checkpoint.resume=never"


def test_a_job_that_never_gets_on_is_given_up(folder: Path) -> None:
    text = text_of(folder).replace("most_fruitless_starts=5", "most_fruitless_starts=2")
    steps = ["exit 75", f"{saves(9)}; exit 75", "exit 75", "exit 75"]
    assert [Bash(folder, text, [step]).code for step in steps] == [75] * 4
    given_up = Bash(folder, text, ["exit 75"])
    assert (given_up.code, given_up.started, given_up.requeued) == (1, [], "")
    assert "given up: 2 starts in a row have saved nothing new" in given_up.said
    assert Bash(folder, text, ["exit 75"], env={"SLURM_JOB_ID": "13"}).code == 75


def test_a_lost_node_is_left_to_slurm(folder: Path) -> None:
    """Oracle: Slurm ends this shell when it requeues the job; until then nothing is said to have failed."""
    text = text_of(folder)
    done = Bash(folder, text, ["exit 1"], probe="kill -TERM $(ps -o ppid= $PPID); sleep 0.2; exit 1")
    assert "ended from outside" in done.said
    assert done.requeued == ""
    waited = Bash(folder, text.replace("longest_wait_s=600", "longest_wait_s=1"), ["exit 1"], probe="exit 1")
    assert waited.code == 1
    assert "a node does not answer; waiting up to 1 s for Slurm to requeue the job" in waited.said


def test_the_end_of_the_job_is_told_to_the_ranks(folder: Path) -> None:
    done = Bash(
        folder, text_of(folder), ["echo $SLURM_JOB_END_TIME $MEGALM_JOB >told"], env={"SLURM_JOB_END_TIME": "9"}
    )
    assert done.code == 0
    assert (folder / "told").read_text() == "9 12\n"


def test_a_site_edits_the_template_by_hand() -> None:
    """Oracle: what the site wrote stays, but for what is asked."""
    own = template(TEMPLATE).replace(
        "#SBATCH --requeue\n", "#SBATCH --requeue\n#SBATCH --exclusive\n#SBATCH --partition=gpu\n#SBATCH --qos=low\n"
    )
    filled = fill(own, {"nodes": "3", "qos": "high", "requeue": None, "comment": "a"}, {"style": "torchrun"})
    found = directives(filled)
    assert (found["exclusive"], found["partition"], found["qos"], found["nodes"]) == ("", "gpu", "high", "3")
    assert "requeue" not in found
    assert found["comment"] == "a"
    lines = dict(itertools.zip_longest(own.splitlines(), filled.splitlines()))
    assert lines["style=tasks"] == "style=torchrun"


def test_a_template_without_a_line_is_refused() -> None:
    with pytest.raises(UserError, match="the template has no line that begins with run_dir="):
        fill("#SBATCH --nodes=1\nrun=()\n", {}, {"run": "()", "run_dir": "x"})
    with pytest.raises(UserError, match="the template has no #SBATCH line"):
        fill("run=()\n", {"nodes": "1"}, {"run": "()"})


def test_options_become_slurms(folder: Path) -> None:
    request = Request(16, 8, "1-0", gpus=True, cpus_per_rank=4, partition="p q", account="a", qos="b")
    found = directives(text_of(folder, request=request))
    assert {name: found[name] for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time")} == {
        "nodes": "16",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "4",
        "time": "1-0",
    }
    assert (found["partition"], found["account"], found["qos"]) == ("p q", "a", "b")
    assert (found["signal"], found["chdir"]) == ("B:USR1@150", str(folder))
    one_a_node = directives(text_of(folder, request=Request(16, 8, "60", style="torchrun", cpus_per_rank=4)))
    assert (one_a_node["ntasks-per-node"], one_a_node["cpus-per-task"]) == ("1", "32")
    assert "gpus-per-node" not in one_a_node


def test_a_container_sees_the_directory_and_the_run(folder: Path) -> None:
    (folder.parent / "elsewhere" / "run").mkdir(parents=True)
    outside = str(folder.parent / "elsewhere" / "run")
    text = text_of(folder, request=Request(2, 2, "60", container_image="a b#c"), run={"dir": outside})
    started = Bash(folder, text).started[0]
    assert started[started.index("--container-image=a b#c") :][:3] == [
        "--container-image=a b#c",
        f"--container-mounts={folder}:{folder},{folder.parent}/elsewhere:{folder.parent}/elsewhere",
        f"--container-workdir={folder}",
    ]


@pytest.mark.parametrize(
    ("request_", "run_dir", "said"),
    [
        (Request(2, 2, "2"), "run", "--time 2 leaves no time to train: the run is saved 150 s before the end"),
        (Request(2, 2, "60", partition="a\nb"), "run", "cannot stand in an #SBATCH line"),
        (Request(2, 2, "60", qos=""), "run", "--qos='' cannot stand"),
        (Request(2, 2, "60"), "a\\b", "has a backslash, which Slurm does not keep"),
        (Request(2, 2, "60"), "a" * 4001, "cannot stand in an #SBATCH line"),
    ],
)
def test_what_slurm_cannot_take_is_refused(request_: Request, run_dir: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        text_of(Path("/work"), request=request_, run={"dir": run_dir})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("run_dir", "name"),
    [("runs/quick", "quick"), ("x; touch y", "x_touch_y"), ("--uid=0", "uid_0"), ("é", "megalm"), ("a" * 99, "a" * 60)],
)
def test_a_job_has_a_harmless_name(run_dir: str, name: str) -> None:
    assert job_name(run_dir) == name
