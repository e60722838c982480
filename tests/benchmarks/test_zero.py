"""Oracle: the same steps on one process of our own engine; arithmetic by hand."""

from collections.abc import Callable

import pytest

from benchmarks.throughput import pairs, plain_torch
from benchmarks.throughput.claims import Measurement, ratios
from benchmarks.throughput.megalm_side import FixedTokens, run_config
from benchmarks.throughput.pairs import turns
from benchmarks.throughput.report import result, table, verdicts
from benchmarks.throughput.workload import Workload
from benchmarks.zero.claims import CLAIMS, ENGINES
from megalm.mesh import Mesh
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step

TINY = Workload(
    num_layers=2,
    hidden_size=16,
    num_heads=2,
    vocab_size=97,
    seq_length=8,
    global_batch_size=4,
    warmup_steps=1,
    timed_steps=3,
    learning_rate=0.01,
)
FIRST = CLAIMS[0]


def test_claims_name_engines_that_there_are() -> None:
    assert {side for claim in CLAIMS for side in (claim.ours, claim.peer)} == ENGINES.keys()
    assert all(claim.dp == 2 for claim in CLAIMS)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_ratios_are_of_the_first_side_over_its_peer() -> None:
    seen = [Measurement("native-1", 140.0, 70.0, 100.0, 4.5, 1), Measurement("deepspeed-1", 100.0, 50.0, 200.0, 4.5, 1)]
    assert ratios(seen, "deepspeed-1", "native-1")["tokens_per_s"] == 1.4
    assert verdicts(FIRST, seen)[0]["holds"] is True
    kept = result("zero", TINY, 1, [(FIRST, seen)], {})
    assert kept["claims"][0]["ours"] == "native-1"
    assert kept["claims"][0]["ratios"]["peak_mib"] == 0.5
    assert kept["command"].startswith("python -m benchmarks.zero")
    assert table([(FIRST, seen)]).row_count == 3
    assert list(turns("deepspeed-1", 2, "native-1")) == ["native-1", "deepspeed-1", "deepspeed-1", "native-1"]


def alone() -> list[float]:
    config = run_config(TINY, 1, 1, 1, TINY.global_batch_size)
    state = build_state(config, Mesh.alone())
    feed = Feed(config, state.mesh, FixedTokens(TINY), objective_of(config))
    return [train_step(state, feed.training_step(step)).loss for step in range(TINY.steps)]


def plain_alone() -> list[float]:
    step, _ = plain_torch.build_step(TINY, data_parallel=False)
    return [step(index) for index in range(TINY.steps)]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("native-3", alone),
        ("backend-fsdp2-3", alone),
        ("fsdp2-3", plain_alone),
        ("zero-redundancy-1", plain_alone),
        ("deepspeed-2", plain_alone),
    ],
)
def test_a_side_learns_what_one_process_learns(side: str, expected: Callable[[], list[float]]) -> None:
    """Oracle: the same steps on one process, by megalm or by plain PyTorch."""
    losses = expected()
    assert len(set(losses)) == 4
    for seen in pairs._run_ranks(FIRST, side, TINY):
        assert seen.losses == pytest.approx(losses, rel=1e-5)
        assert seen.num_parameters == TINY.num_parameters
