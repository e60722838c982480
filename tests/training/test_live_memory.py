"""Oracle: the storages that are alive, whoever holds them, and the same run without anybody counting."""

from typing import Any

import pytest

from megalm.mesh import Mesh
from megalm.training.build import TrainingState, build_state
from megalm.training.live_memory import LiveMemory
from megalm.training.step import train_step
from tests.models.live_storages import LiveStorages
from tests.models.test_activations import config_of, feed_of
from tests.pretend_host import pretended
from tests.verify.runs import GPT2, LLAMA, NEOX

ALL = ["attention_core", "activation", "norm"]
MODES: list[dict[str, Any]] = [
    {"mode": "none"},
    {"mode": "selective", "operations": ALL},
    {"mode": "full", "every": 2},
]


def begin(model: str, recompute: dict[str, Any], schedule: str = "1f1b") -> tuple[TrainingState, Any]:
    config = config_of(model, recompute=recompute, pipeline={"schedule": schedule})
    state = build_state(config, Mesh.alone())
    state.model.train()
    return state, feed_of(config, state.mesh)


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("model", [GPT2, NEOX, LLAMA])
def test_what_is_counted_is_what_is_alive_after_each_action(model: str, recompute: dict[str, Any]) -> None:
    """All that is alive after an action but was not before the step: losses apart, which are kept to the end."""
    state, feed = begin(model, recompute, "gpipe")
    batches = feed.training_step(0)
    state.exchange.zero()
    live, found = LiveMemory(state), []
    with LiveStorages() as storages:
        state.engine.record = lambda *_: found.append(storages.bytes_beside())
        with live.counting():
            state.run(batches)
    losses = 8 * len(batches)
    assert live.activations == max(found) - losses


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("recompute", MODES, ids=str)
def test_of_offloaded_layers_each_memory_is_counted(recompute: dict[str, Any], schedule: str) -> None:
    """All that is alive, the host's apart; storages of every size move but norms' statistics."""
    with pretended(400) as host:
        state, feed = begin(LLAMA, {**recompute, "offload": "cpu"}, schedule)
    batches = feed.training_step(0)
    state.exchange.zero()
    live, on_device, on_host = LiveMemory(state), [], []
    with LiveStorages() as storages:

        def look(*_: object) -> None:
            on_host.append(host.num_bytes)
            on_device.append(storages.bytes_beside() - host.num_bytes)

        state.engine.record = look
        with live.counting():
            state.run(batches)
    losses = 8 * len(batches)
    assert live.activations == max(on_device) - losses
    assert live.host_activations == max(on_host) > 0
    assert live._saved == {}


@pytest.mark.parametrize("recompute", MODES, ids=str)
def test_counting_changes_nothing_and_keeps_nothing(recompute: dict[str, Any]) -> None:
    losses = []
    for counts in (False, True):
        state, feed = begin(LLAMA, recompute)
        told: list[object] = []
        state.engine.record = lambda action, *_, told=told: told.append(action)
        live = LiveMemory(state)
        reports = []
        for step in range(2):
            batches = feed.training_step(step)
            if counts:
                with live.counting():
                    reports.append(train_step(state, batches))
                assert live.activations > 0
            else:
                reports.append(train_step(state, batches))
        losses.append([(report.loss, report.grad_norm) for report in reports])
        assert len(told) == 2 * len(state.programs.training(len(batches)).ranks[0])
        assert live._saved == {}
    assert losses[0] == losses[1]
