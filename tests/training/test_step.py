"""Oracle: plain torch on one process: autograd of the mean loss, clip_grad_norm_ and torch.optim.AdamW, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from megalm.batch import MicroBatch
from megalm.errors import TrainingError
from megalm.layout import Layout
from megalm.mesh import Axis, Mesh
from megalm.parameters import spec_of
from megalm.training.build import TrainingState, build_state, named_parameters
from megalm.training.feed import split
from megalm.training.step import StepReport, train_step
from tests.ranks import RankContext, RankPool
from tests.training.tiny import SAMPLES, Tiny, global_batch, run_config

STEPS, CLIP = 4, 0.8
LAYOUTS = (Layout(), Layout(dp=2), Layout(tp=2), Layout(dp=3), Layout(dp=2, tp=2))


def share_of(batch: MicroBatch, mesh: Mesh, micro_batch_size: int) -> list[MicroBatch]:
    """Cut a rank's share out of a global batch."""
    return split(split(batch, SAMPLES // mesh.dp.size)[mesh.dp.rank], micro_batch_size)


def whole_values(state: TrainingState) -> dict[str, tuple[Tensor, tuple[slice, ...]]]:
    """Return each parameter's local values and where they lie in the whole."""
    positions = {"tp": state.mesh.tp.rank}
    return {
        name: (parameter.detach().clone(), spec_of(parameter).local_slices(positions))
        for name, parameter in named_parameters(state).items()
    }


def learn(
    context: RankContext, layout: Layout
) -> list[tuple[list[StepReport], dict[str, tuple[Tensor, tuple[slice, ...]]]]]:
    """Take the steps once for each size of the micro-batches."""
    outcomes = []
    for micro_batch_size in (1, 2, 6):
        state = build_state(run_config(layout, CLIP), Mesh.build(layout))
        batches = [share_of(global_batch(step), state.mesh, micro_batch_size) for step in range(STEPS)]
        outcomes.append(([train_step(state, batch) for batch in batches], whole_values(state)))
    return outcomes


@pytest.fixture(scope="module")
def plain() -> tuple[list[tuple[float, float, float]], dict[str, nn.Parameter]]:
    """Return (loss, norm, lr) of each step and the parameters after the last."""
    state = build_state(run_config(Layout()), Mesh.alone())  # only for its initial values
    model = Tiny(Axis.alone("tp")).double()
    model.load_state_dict(state.model.state_dict())
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameter for parameter in learned if parameter.ndim > 1], "weight_decay": 0.3},
            {"params": [parameter for parameter in learned if parameter.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        foreach=False,
    )
    told = []
    for step in range(STEPS):
        lr = 0.05 * (step + 1) / 2 if step < 2 else 0.05 * (10 - step) / 8
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = model(global_batch(step))
        loss.backward()
        norm = clip_grad_norm_(learned, CLIP, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        told.append((loss.item(), norm.item(), lr))
    return told, dict(model.named_parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_plain_torch(
    ranks: RankPool, plain: tuple[list[tuple[float, float, float]], dict[str, nn.Parameter]], layout: Layout
) -> None:
    told, parameters = plain
    assert min(norm for _, norm, _ in told) < CLIP < max(norm for _, norm, _ in told), "clipping was not exercised"
    for outcome in ranks.run(layout.world_size, learn, layout):
        for reports, values in outcome:
            assert [(report.step, report.updated) for report in reports] == [(n + 1, True) for n in range(STEPS)]
            found = [(report.loss, report.grad_norm, report.lr) for report in reports]
            assert found == [pytest.approx(wanted, rel=1e-12) for wanted in told]
            assert set(values) == set(parameters)
            for name, (value, part) in values.items():
                torch.testing.assert_close(value, parameters[name].detach()[part], rtol=1e-11, atol=1e-12)


def no_label(context: RankContext, layout: Layout) -> tuple[StepReport, StepReport, bool, int]:
    """Return a step without a valid token, the one after it, whether values stayed, and the updates."""
    state = build_state(run_config(layout), Mesh.build(layout))
    train_step(state, share_of(global_batch(0), state.mesh, 2))
    before = [bucket.values.tensor.clone() for bucket in state.buckets]
    kept = [tensor.clone() for bucket in state.optimizer.state for tensor in bucket.values()]
    empty = train_step(state, share_of(global_batch(1, learned=False), state.mesh, 2))
    stayed = all(torch.equal(bucket.values.tensor, old) for bucket, old in zip(state.buckets, before, strict=True))
    now = [tensor for bucket in state.optimizer.state for tensor in bucket.values()]
    stayed = stayed and all(torch.equal(new, old) for new, old in zip(now, kept, strict=True))
    return empty, train_step(state, share_of(global_batch(2), state.mesh, 2)), stayed, state.optimizer.updates


@pytest.mark.parametrize("layout", [Layout(), Layout(dp=2), Layout(tp=2)])
def test_a_batch_without_a_valid_token_counts_and_changes_nothing(ranks: RankPool, layout: Layout) -> None:
    for empty, following, stayed, updates in ranks.run(layout.world_size, no_label, layout):
        assert (empty.step, empty.loss, empty.grad_norm, empty.updated) == (2, 0, 0, False)
        assert stayed
        assert (following.step, following.updated, updates) == (3, True, 2)


def test_a_share_without_a_valid_token_still_learns_from_the_others() -> None:
    state = build_state(run_config(Layout()), Mesh.alone())
    first, *rest = share_of(global_batch(0), state.mesh, 1)
    report = train_step(state, [replace(first, labels_bs=torch.full_like(first.labels_bs, -100)), *rest])
    assert report.updated


def one_rank_without_a_share(context: RankContext, layout: Layout) -> tuple[StepReport, list[Tensor]]:
    state = build_state(run_config(layout), Mesh.build(layout))
    whole = split(global_batch(0), 2)
    report = train_step(state, whole if state.mesh.dp.rank == 0 else [])
    return report, [bucket.values.tensor.clone() for bucket in state.buckets]


def test_a_rank_without_a_share_updates_with_the_others(ranks: RankPool) -> None:
    ((alone, wanted),) = ranks.run(1, one_rank_without_a_share, Layout())
    for report, values in ranks.run(2, one_rank_without_a_share, Layout(dp=2)):
        assert report == alone
        assert report.updated
        torch.testing.assert_close(values, wanted, rtol=1e-12, atol=0)


def sick(
    context: RankContext, layout: Layout, sick_rank: int, what: str, skip: bool
) -> tuple[str | StepReport, bool, int, StepReport]:
    """Make one rank's gradient or loss NaN in the second of three steps.

    Returns:
        The sentence or the report of that step, whether values stayed, the updates, and the step after it.
    """
    state = build_state(run_config(layout), Mesh.build(layout))
    train_step(state, share_of(global_batch(0), state.mesh, 2))
    before = [bucket.values.tensor.clone() for bucket in state.buckets]
    setattr(state.model, what, context.rank == sick_rank)
    told: str | StepReport
    try:
        told = train_step(state, share_of(global_batch(1), state.mesh, 2), skip_non_finite=skip)
    except TrainingError as error:
        told = str(error)
    stayed = all(torch.equal(bucket.values.tensor, old) for bucket, old in zip(state.buckets, before, strict=True))
    updates = state.optimizer.updates
    setattr(state.model, what, False)
    return told, stayed, updates, train_step(state, share_of(global_batch(2), state.mesh, 2))


@pytest.mark.parametrize(
    ("layout", "sick_rank"), [(Layout(), 0), (Layout(dp=2), 1), (Layout(tp=2), 1), (Layout(dp=2, tp=2), 3)]
)
def test_a_gradient_that_is_not_finite_is_named_by_all_ranks(ranks: RankPool, layout: Layout, sick_rank: int) -> None:
    found = ranks.run(layout.world_size, sick, layout, sick_rank, "bad_scale", False)
    sentences = {told for told, *_ in found}
    assert len(sentences) == 1
    (sentence,) = sentences
    assert isinstance(sentence, str)
    assert sentence.startswith("step 2: ")
    assert "the gradient of scale is not finite; lower optimizer.lr, look at the data, or set" in sentence
    assert sentence.endswith("train.non_finite: skip.")
    assert "\n" not in sentence
    assert all(stayed and updates == 1 for _, stayed, updates, _ in found)


@pytest.mark.parametrize("sick_rank", [0, 1])
def test_a_loss_that_is_not_finite_is_told_by_all_ranks(ranks: RankPool, sick_rank: int) -> None:
    sentences = {str(told) for told, *_ in ranks.run(2, sick, Layout(dp=2), sick_rank, "bad_loss", False)}
    assert len(sentences) == 1
    assert "step 2: loss nan" in sentences.pop()


def test_a_norm_that_overflows_blames_neither_the_loss_nor_a_parameter() -> None:
    state = build_state(run_config(Layout()), Mesh.alone())
    huge = [replace(batch, loss_scale=batch.loss_scale * 1e200) for batch in share_of(global_batch(0), state.mesh, 2)]
    with pytest.raises(
        TrainingError, match=r"^step 1: loss \S+e\+200, but the gradient norm overflows: it is not finite"
    ):
        train_step(state, huge)


def test_a_loss_that_alone_is_not_finite_is_blamed_alone() -> None:
    state = build_state(run_config(Layout()), Mesh.alone())
    assert isinstance(state.model, Tiny)
    state.model.add_to_loss = math.inf
    with pytest.raises(TrainingError, match=r"^step 1: loss inf is not finite; lower"):
        train_step(state, share_of(global_batch(0), state.mesh, 2))


@pytest.mark.parametrize(("what", "sick_rank"), [("bad_scale", 1), ("bad_loss", 0)])
def test_skipping_counts_the_step_and_goes_on(ranks: RankPool, what: str, sick_rank: int) -> None:
    for told, stayed, updates, following in ranks.run(2, sick, Layout(dp=2), sick_rank, what, True):
        assert isinstance(told, StepReport)
        assert (told.step, told.updated, stayed, updates) == (2, False, True, 1)
        assert not math.isfinite(told.loss + told.grad_norm)
        assert (following.step, following.updated) == (3, True)
        assert math.isfinite(following.loss + following.grad_norm)
