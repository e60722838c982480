"""Oracle: what a rank marked, read by another process while it runs, while it is stopped, and after ``kill -9``."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from megalm.watch.marker import Marker, clear_positions
from megalm.watch.place import FOLDER, MOST_CHANNELS, read_position, read_positions
from megalm.watch.position import Call, Channel, End
from megalm.watch.processes import born, life_of, this_machine
from tests.watch.marked import marker_of

ROOT = Path(__file__).parents[2]


def test_what_is_marked_is_read(tmp_path: Path) -> None:
    marker = marker_of(tmp_path, 1)
    dp, tp = marker.channel("dp", (1, 3)), marker.channel("tp", (0, 1))
    assert dp is not None
    assert tp is not None
    assert marker.channel("dp", (1, 3)) is dp
    before = time.time()
    marker.step(41)
    marker.enter("1F3/2")
    dp.begin("all_reduce", 80)
    begun = tp.begin("all_gather", 3 << 33)
    begun.wait()
    message = dp.message(3, 1, 12)
    assert message is not None
    found = read_position(tmp_path, 1)
    assert found is not None
    assert (found.rank, found.world_size, found.host, found.pid) == (1, 4, "h1", 4711)
    assert (found.step, found.coordinates, found.end) == (41, {"pp": 0, "dp": 1}, None)
    (lane,) = found.lanes
    gathers = Call(Channel((0, 1)), 1, "tp", "all_gather", 3 << 33)
    assert (lane.doing, lane.waits) == ("1F3/2", gathers)
    assert before - 1 < lane.since < time.time() + 1
    reduces = Call(Channel((1, 3)), 1, "dp", "all_reduce", 80)
    sends = Call(Channel((3, 1), messages=True), 1, "dp", "message", 12)
    assert list(found.begun.values()) == [reduces, gathers, sends]
    begun.done()
    wide = marker.channel("dp_cp", (1, 3))  # another axis of the same ranks
    assert wide is not None
    wide.begin("all_reduce", 6)
    tp.begin("all_reduce", 4)
    marker.beat()
    marker.ends(End("crashed", "at line 3", 5.0))
    marker.ends(End("lost", "a later word", 6.0))
    later = read_position(tmp_path, 1)
    assert later is not None
    assert later.lanes[0].waits is None
    assert later.begun[Channel((0, 1))] == Call(Channel((0, 1)), 2, "tp", "all_reduce", 4)
    assert later.begun[Channel((1, 3))] == Call(Channel((1, 3)), 2, "dp_cp", "all_reduce", 6)
    assert later.beats == found.beats + 1
    assert later.end == End("crashed", "at line 3", 5.0)
    marker.remove()
    assert read_positions(tmp_path) == {}


def test_a_save_beside_training_has_a_lane_of_its_own(tmp_path: Path) -> None:
    marker = marker_of(tmp_path, 0)
    channel = marker.channel("checkpoint", (0, 1), "checkpoint")
    assert channel is not None
    waiting, go_on = threading.Event(), threading.Event()

    def save() -> None:
        with marker.beside("saving"):
            begun = channel.begin("all_gather", 8)
            begun.wait()
            waiting.set()
            go_on.wait(10)
            begun.done()

    thread = threading.Thread(target=save)
    thread.start()
    waiting.wait(10)
    marker.enter("0F0")
    with marker.joining():
        found = read_position(tmp_path, 0)
    assert found is not None
    training, beside = found.lanes
    assert (training.doing, training.waits, training.joins) == ("0F0", None, True)
    assert (beside.doing, beside.waits) == (
        "saving",
        Call(Channel((0, 1), "checkpoint"), 1, "checkpoint", "all_gather", 8),
    )
    go_on.set()
    thread.join()
    found = read_position(tmp_path, 0)
    assert found is not None
    assert [lane.joins for lane in found.lanes] == [False]


def test_time_is_added_up_by_kind_of_action(tmp_path: Path) -> None:
    marker = marker_of(tmp_path, 0)
    channel = marker.channel("dp", (0, 1))
    assert channel is not None
    marker.seconds()
    marker.enter("1F0")
    time.sleep(0.05)
    marker.enter("1F1/3")
    time.sleep(0.05)
    begun = channel.begin("all_reduce")
    begun.wait()
    time.sleep(0.2)
    begun.done()
    marker.enter("update")
    time.sleep(0.03)
    seconds = marker.seconds()
    assert 0.1 <= seconds["1F"] < 0.2
    assert 0.2 <= seconds["waiting"] < 0.4
    assert 0.03 <= seconds["update"] < 0.13
    assert sum(marker.seconds().values()) < 0.02
    assert Marker().seconds() == {}


def test_a_position_is_whole_while_it_changes_and_outlives_its_process(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.watch.marked", str(tmp_path)]
    rank = subprocess.Popen(program, cwd=ROOT)
    channel = Channel((1, 3))
    try:
        while (found := read_position(tmp_path, 3)) is None or channel not in found.begun:
            time.sleep(0.01)
        for look in range(300):
            found = read_position(tmp_path, 3)
            assert found is not None
            if channel in found.begun:
                assert found.begun[channel].payload == 8 * found.begun[channel].number
            for lane in found.lanes:
                assert lane.waits is None or lane.waits.payload == 8 * lane.waits.number
            if look % 100 == 50:
                rank.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
                still = read_position(tmp_path, 3)
                assert still is not None
                if channel in still.begun:  # not, if it was stopped in the middle of writing that
                    assert abs(still.begun[channel].number - still.step) <= 1
                assert read_position(tmp_path, 3) == still
                rank.send_signal(signal.SIGCONT)
        rank.kill()
        rank.wait()
        found = read_position(tmp_path, 3)
        assert found is not None
        if channel in found.begun:
            assert abs(found.begun[channel].number - found.step) <= 1
    finally:
        rank.kill()
        rank.wait()


def test_only_the_newest_launch_is_read_and_an_old_one_is_cleared(tmp_path: Path) -> None:
    assert read_positions(tmp_path) == {}
    for rank in range(4):
        marker_of(tmp_path, rank, started=100.0).ends(End("lost", "long ago"))
    marker_of(tmp_path, 0, started=200.0, launch="second", world_size=2)
    assert list(read_positions(tmp_path)) == [0]
    (tmp_path / FOLDER / "00007").write_bytes(b"cut off")
    clear_positions(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["00000", "00001", "00001.end"]
    found = marker_of(tmp_path, 1, started=201.0, launch="second")
    assert {rank: position.end for rank, position in read_positions(tmp_path).items()} == {0: None, 1: None}
    found.remove()


def test_a_file_that_is_full_counts_no_further_channel(tmp_path: Path) -> None:
    marker = marker_of(tmp_path, 0)
    counted = [marker.channel("pp", (0, peer)) for peer in range(1, 2 * MOST_CHANNELS)]
    assert None in counted
    for channel in counted:
        if channel is not None:
            channel.begin("message", 1)
    found = read_position(tmp_path, 0)
    assert found is not None
    assert len(found.begun) == sum(channel is not None for channel in counted) == MOST_CHANNELS


def test_what_the_machine_says_of_a_process(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    card: dict[str, Any] = {"pid": process.pid, "machine": this_machine(), "born": born(process.pid)}
    marker_of(tmp_path, 0, **card)
    marker_of(tmp_path, 1, **{**card, "born": card["born"] - 1})
    marker_of(tmp_path, 2, **{**card, "machine": "another"})
    positions = read_positions(tmp_path)

    def seen() -> list[str]:
        return [life_of(position, this_machine()) for position in positions.values()]

    assert seen() == ["runs", "gone", "unseen"]
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert seen()[0] == "stopped"
    process.kill()
    while life_of(positions[0], this_machine()) != "gone":  # dead, though nobody has asked for its exit code
        time.sleep(0.01)
    process.wait()
    assert seen() == ["gone", "gone", "unseen"]
