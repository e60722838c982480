"""Oracle: arithmetic by hand, a closed form for the model's size, ln(vocabulary) for an untrained model's loss.

The pipelined model in plain PyTorch is judged against the same model in one process.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from benchmarks.throughput import overhead, pairs
from benchmarks.throughput.claims import CLAIMS, Bound, Claim, Measurement, measurement, medians, ratios
from benchmarks.throughput.measure import RankReading, peak_resident_bytes, read_rank
from benchmarks.throughput.megalm_side import run_config
from benchmarks.throughput.overhead import Clock, Overhead
from benchmarks.throughput.pairs import environment, measure_pairs, measure_side, turns
from benchmarks.throughput.plain_torch import PlainGPT
from benchmarks.throughput.report import verdicts
from benchmarks.throughput.workload import Workload
from megalm.models.counts import flops_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.partition import partition

TINY = Workload(
    num_layers=1,
    hidden_size=16,
    num_heads=2,
    vocab_size=97,
    seq_length=8,
    global_batch_size=4,
    warmup_steps=1,
    timed_steps=1,
)


TWO_STAGES = Claim("pipeline", "torch-pipelining", dp=1, tp=1, threads=1, bounds=(), pp=2, micro_batch_size=1)


def measured(side: str, speed: float, peak: float = 100.0) -> Measurement:
    return Measurement(side, speed, speed / 2, peak, 4.5, 1)


def test_ranks_readings_become_one_measurement() -> None:
    readings = [RankReading(2.0, 1.5, 3 * 2**20, [4.5, 4.4], 7), RankReading(1.0, 0.5, 5 * 2**20, [4.5, 4.4], 7)]
    assert measurement("plain", readings, TINY) == Measurement(
        "plain", tokens_per_s=16.0, tokens_per_cpu_s=16.0, peak_mib=5.0, first_loss=4.5, num_parameters=7
    )


def test_medians_are_per_side_and_unmoved_by_an_outlier() -> None:
    seen = [measured("megalm", speed) for speed in (10.0, 12.0, 1000.0)] + [measured("plain", 4.0)]
    assert medians(seen, "megalm") == {"tokens_per_s": 12.0, "tokens_per_cpu_s": 6.0, "peak_mib": 100.0}
    assert ratios(seen, "plain")["tokens_per_s"] == 3.0


@pytest.mark.parametrize(("ours", "holds"), [(124.0, False), (125.0, True), (126.0, True)])
def test_speed_bound(ours: float, holds: bool) -> None:
    claim = Claim("c", "plain", 1, 1, 1, (Bound("tokens_per_s", 1.25),))
    (verdict,) = verdicts(claim, [measured("megalm", ours), measured("plain", 100.0)])
    assert verdict["holds"] is holds


@pytest.mark.parametrize(("ours", "holds"), [(66.0, False), (65.0, True), (64.0, True)])
def test_memory_bound(ours: float, holds: bool) -> None:
    claim = Claim("c", "plain", 1, 1, 1, (Bound("peak_mib", 0.65, at_most=True),))
    (verdict,) = verdicts(claim, [measured("megalm", 1.0, ours), measured("plain", 1.0, 100.0)])
    assert verdict["holds"] is holds


def test_sides_alternate_and_so_does_who_is_first() -> None:
    assert list(turns("plain", 3)) == ["megalm", "plain", "plain", "megalm", "megalm", "plain"]


def test_environment_keeps_the_allocator_as_it_comes() -> None:
    base: Mapping[str, str] = {"PATH": "p", "MALLOC_TOP_PAD_": "1", "LD_PRELOAD": "tcmalloc.so", "RANK": "9"}
    assert environment(base, 0, 1, 2, 5) == {"PATH": "p", "OMP_NUM_THREADS": "2", "GLOO_SOCKET_IFNAME": "lo"}
    assert environment(base, 1, 2, 1, 5)["RANK"] == "1"


def test_only_steps_between_the_clocks_count() -> None:
    seen = []

    def step(index: int) -> float:
        seen.append(index)
        return float(index)

    reading = read_rank(step, 3, Workload(warmup_steps=2, timed_steps=3))
    assert seen == reading.losses == [0, 1, 2, 3, 4]
    assert reading.cpu_s < 1


def test_peak_counts_memory_that_was_freed() -> None:
    before = peak_resident_bytes()
    torch.ones(before // 4 + 2**24)  # float32: as much again as the whole process, for a moment
    assert peak_resident_bytes() > before + 2**25


def test_every_layout_reads_the_same_batch() -> None:
    inputs, targets = TINY.batch(3)
    halves = [TINY.batch(3, rank, 2) for rank in range(2)]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), inputs)
    torch.testing.assert_close(torch.cat([half[1] for half in halves]), targets)
    torch.testing.assert_close(inputs[:, 1:], targets[:, :-1])
    assert not torch.equal(TINY.batch(4)[0], inputs)


def test_plain_model_has_the_size_in_closed_form() -> None:
    assert sum(parameter.numel() for parameter in PlainGPT(TINY).parameters()) == TINY.num_parameters
    assert Workload().num_parameters == 30062592


def test_a_pair_runs_in_fresh_processes() -> None:
    claim = Claim("alone", "plain", dp=1, tp=1, threads=1, bounds=())
    told: list[Measurement] = []
    seen = measure_pairs(claim, TINY, 1, told.append)
    assert [each.side for each in seen] == ["megalm", "plain"]
    assert seen == told
    assert all(abs(each.first_loss - math.log(97)) < 0.1 for each in seen)
    assert {each.num_parameters for each in seen} == {TINY.num_parameters}


def test_a_rank_that_fails_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "cat")  # it does not know the interpreter's -m
    with pytest.raises(RuntimeError, match=r"rank \d of plain on pair failed:\n.*cat: "):
        measure_side(Claim("pair", "plain", dp=2, tp=1, threads=1, bounds=()), "plain", TINY)


def test_other_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = RankReading(1.0, 1.0, 2**20, [4.5], TINY.num_parameters + 1)
    monkeypatch.setattr(pairs, "_run_ranks", lambda *_: [reading])
    with pytest.raises(RuntimeError, match="plain does other work"):
        measure_side(Claim("dp1", "plain", 1, 1, 1, ()), "plain", TINY)


@pytest.mark.parametrize("side", ["megalm", "torch-pipelining", "megatron-core"])
def test_a_pipelined_side_does_the_workload(side: str) -> None:
    seen = measure_side(TWO_STAGES, side, TINY)
    assert abs(seen.first_loss - math.log(97)) < 0.1
    assert seen.num_parameters == TINY.num_parameters


def test_torch_in_two_stages_learns_what_it_learns_in_one_process() -> None:
    workload = replace(TINY, num_layers=2, timed_steps=3, learning_rate=0.01)
    losses = []
    for claim, side in ((Claim("alone", "plain", 1, 1, 1, ()), "plain"), (TWO_STAGES, "torch-pipelining")):
        losses.append([reading.losses for reading in pairs._run_ranks(claim, side, workload)])
    (alone,), staged = losses
    assert len(alone) == 4
    for each in staged:
        assert each == pytest.approx(alone, rel=2e-5)
    assert staged[0] == staged[1]


def test_megalm_cuts_as_the_peers_are_cut() -> None:
    (claim, _) = (claim for claim in CLAIMS if claim.pp == 2)
    config = run_config(Workload(), claim.dp, claim.tp, claim.pp, claim.micro_batch(Workload()))
    assert config.pipeline.blocks_per_stage == "auto"
    flops = flops_by_block(DecoderShape.of(config.model), config.train.seq_length)
    costs = [block.whole for block in flops]
    assert partition(costs, 2) == [range(7), range(7, 8)]  # the embedding and 6 layers; the head with its norm


def test_a_claim_says_its_micro_batches() -> None:
    assert TWO_STAGES.micro_batch(TINY) == 1
    assert TWO_STAGES.num_ranks == 2
    assert Claim("dp2", "plain", 2, 1, 1, ()).micro_batch(TINY) == 2


def test_a_clocked_function_in_another_counts_once() -> None:
    ticks = iter([1.0, 2.0, 4.0])
    clock = Clock(lambda: next(ticks))
    inner = clock.wrap(lambda: "found")
    assert clock.wrap(lambda: inner())() == "found"
    assert clock.seconds == 3.0


@pytest.mark.parametrize(("engine_s", "holds"), [(10.2, True), (10.4, False)])
def test_the_worst_rank_judges_the_engine(engine_s: float, holds: bool) -> None:
    verdict = overhead.verdict([Overhead(engine_s, 10.0), Overhead(10.1, 10.0)])
    assert verdict["holds"] is holds
    assert verdict["measured"] == pytest.approx(engine_s / 10 - 1)


def test_the_engine_is_clocked_on_every_rank() -> None:
    (claim, _) = (claim for claim in CLAIMS if claim.pp == 2)
    assert all(0 < each.stage_s < each.engine_s for each in overhead.measure(claim, TINY))
