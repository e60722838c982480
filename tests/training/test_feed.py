"""Oracle: the global batch itself, cut by hand; sums by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch, Source
from megalm.data.loader import Rows
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis, Mesh
from megalm.objectives.clm import clm
from megalm.training.feed import Feed, Valid, count_valid, objective_of, split, to_device, unlearned
from tests.ranks import RankContext, RankPool
from tests.training.tiny import SAMPLES, SEQUENCE, run_config

TENSORS = ("tokens_bs", "labels_bs", "positions_bs", "rows_bs", "documents_bs")


class Numbers:
    """A source whose tokens tell their sample and place; documents change after ``sample % SEQUENCE`` tokens."""

    def rows(self, step: int, first: int, count: int) -> Rows:
        samples = np.arange(step * SAMPLES + first, step * SAMPLES + first + count)
        places = np.arange(SEQUENCE + 1)
        documents = (places > samples[:, None] % SEQUENCE).astype(np.int32)
        return Rows(samples[:, None] * 100 + places, documents, samples)


def uneven(rows: Rows, *, reset_attention: bool) -> MicroBatch:
    """Learn more tokens of later samples, and none of every sixth."""
    batch = clm(rows, reset_attention=reset_attention)
    kept = torch.arange(SEQUENCE) < torch.from_numpy(rows.samples_b).unsqueeze(1) % 6
    return replace(batch, labels_bs=batch.labels_bs.masked_fill(~kept, IGNORED))


def nothing(rows: Rows, *, reset_attention: bool) -> MicroBatch:
    batch = clm(rows, reset_attention=reset_attention)
    return replace(batch, labels_bs=torch.full_like(batch.labels_bs, IGNORED))


OBJECTIVES = {"clm": clm, "uneven": uneven, "nothing": nothing}


@dataclass
class Shares:
    """What one rank was given."""

    training: list[MicroBatch]
    evaluation: list[MicroBatch]
    entries: list[Entry]


def feed(context: RankContext, layout: Layout, objective: str, micro_batch_size: int) -> Shares:
    ledger = Ledger()
    mesh = Mesh.build(layout, ledger=ledger)
    config = run_config(layout, micro_batch_size=micro_batch_size)
    made = Feed(config, mesh, Numbers(), OBJECTIVES[objective])
    training = made.training_step(3)
    entries = list(ledger.entries)
    _, (*_, last) = made.held_out([6, 6, 4])
    return Shares(training, last, entries)


def joined(batches: list[MicroBatch]) -> Mapping[str, Tensor]:
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in TENSORS[:4]}


@pytest.mark.parametrize("layout", [Layout(), Layout(dp=2), Layout(dp=3), Layout(dp=2, tp=2)])
@pytest.mark.parametrize("objective", ["uneven", "clm"])
def test_the_ranks_shares_are_the_global_batch_in_order(ranks: RankPool, layout: Layout, objective: str) -> None:
    found = ranks.run(layout.world_size, feed, layout, objective, 2)
    first_of_each = [found[layout.tp * dp].training for dp in range(layout.dp)]
    wanted = OBJECTIVES[objective](Numbers().rows(3, 0, SAMPLES), reset_attention=False)
    for name, whole in joined([batch for share in first_of_each for batch in share]).items():
        assert torch.equal(whole, getattr(wanted, name)), name
    num_valid = {"uneven": 0 + 1 + 2 + 3 + 4 + 5, "clm": SAMPLES * SEQUENCE}[objective]
    assert {batch.loss_scale for rank in found for batch in rank.training} == {1 / num_valid}


def test_tensor_ranks_are_given_the_same(ranks: RankPool) -> None:
    one, other = ranks.run(2, feed, Layout(tp=2), "uneven", 2)
    for name in TENSORS[:4]:
        assert torch.equal(joined(one.training)[name], joined(other.training)[name])


def test_the_valid_tokens_are_counted_once_over_the_data_ranks(ranks: RankPool) -> None:
    for rank in ranks.run(2, feed, Layout(dp=2), "clm", 2):
        assert rank.entries == [Entry("all_reduce", "dp_cp", "int64", 8, scalar=True)]


@pytest.mark.parametrize(("micro_batch_size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (4, [3])])
def test_the_last_micro_batch_may_be_smaller(ranks: RankPool, micro_batch_size: int, sizes: list[int]) -> None:
    for rank in ranks.run(2, feed, Layout(dp=2), "clm", micro_batch_size):
        assert [len(batch.tokens_bs) for batch in rank.training] == sizes
        assert [batch.num_tokens for batch in rank.training] == [size * SEQUENCE for size in sizes]


def test_a_global_batch_without_a_label_has_scale_0(ranks: RankPool) -> None:
    for rank in ranks.run(2, feed, Layout(dp=2), "nothing", 2):
        assert {batch.loss_scale for batch in rank.training} == {0.0}


def test_an_evaluation_is_a_mean_over_all_batches_and_a_rank_without_samples_has_as_many_micro_batches(
    ranks: RankPool,
) -> None:
    found = ranks.run(3, feed, Layout(dp=3), "clm", 2)
    assert [[len(batch.tokens_bs) for batch in rank.evaluation] for rank in found] == [[2], [2], [1]]
    assert (found[2].evaluation[0].labels_bs == IGNORED).all()
    assert {batch.loss_scale for rank in found for batch in rank.evaluation} == {1 / (16 * SEQUENCE)}
    wanted = clm(Numbers().rows(2, 0, 4), reset_attention=False)
    assert torch.equal(joined(found[0].evaluation + found[1].evaluation)["tokens_bs"], wanted.tokens_bs)


def test_every_token_of_a_run_has_its_own_number() -> None:
    mesh = Mesh.alone()
    made = Feed(run_config(Layout()), mesh, Numbers(), clm)
    numbers = torch.cat([batch.rows_bs.flatten() for step in range(3) for batch in made.training_step(step)])
    assert numbers.tolist() == list(range(3 * SAMPLES * SEQUENCE))


def test_tokens_are_asked_for_the_next_one() -> None:
    batch = clm(Numbers().rows(0, 1, 1), reset_attention=False)
    assert batch.tokens_bs.tolist() == [[100, 101, 102, 103, 104]]
    assert batch.labels_bs.tolist() == [[101, 102, 103, 104, 105]]
    assert batch.positions_bs.tolist() == [[0, 1, 2, 3, 4]]
    assert batch.documents_bs is None


def test_with_reset_attention_a_document_starts_anew_and_its_end_is_asked_for_nothing() -> None:
    batch = clm(Numbers().rows(0, 0, 3), reset_attention=True)
    assert batch.documents_bs is not None
    assert batch.documents_bs.tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch.positions_bs.tolist() == [[0, 0, 1, 2, 3], [0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    ignored = IGNORED
    assert batch.labels_bs.tolist() == [
        [ignored, 2, 3, 4, 5],
        [101, ignored, 103, 104, 105],
        [201, 202, ignored, 204, 205],
    ]


def test_split_and_to_device_keep_every_field() -> None:
    batch = replace(clm(Numbers().rows(0, 0, 5), reset_attention=True), loss_scale=0.25)
    parts = split(to_device(batch, torch.device("cpu")), 2)
    assert [len(part.tokens_bs) for part in parts] == [2, 2, 1]
    for name in TENSORS:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert {part.loss_scale for part in parts} == {0.25}


def test_every_tensor_of_a_micro_batch_is_mapped_those_of_the_source_too() -> None:
    numbers = torch.arange(6).view(2, 3)
    source = Source(numbers, numbers + 1, numbers + 2, numbers + 3)
    tensors: dict[str, Any] = {name: numbers + 10 * place for place, name in enumerate((*TENSORS, "segments_bs"))}
    of_samples: dict[str, Any] = {"classes_b": numbers[:, 0], "class_loss_scale": 0.25}
    judged: dict[str, Any] = {"judged_bs": numbers > 2, "judged_loss_scale": 0.125}
    batch = MicroBatch(**tensors, **of_samples, **judged, loss_scale=0.5, source=source)
    (first, second) = split(batch, 1)
    for name in (*tensors, "classes_b", "judged_bs"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(batch, name)), name
    for name in ("tokens_bs", "positions_bs", "rows_bs", "documents_bs"):
        assert torch.equal(getattr(second.source, name), getattr(source, name)[1:]), name
    known = {*tensors, *of_samples, *judged, "source", "loss_scale", "cache", "task"}
    assert {field.name for field in fields(MicroBatch)} == known


def test_what_is_learned_is_counted() -> None:
    labels = torch.tensor([[3, IGNORED, 0], [IGNORED, IGNORED, 1]])
    batch = MicroBatch(labels, labels, labels, labels, loss_scale=3.0)
    asked = replace(batch, classes_b=torch.tensor([1, IGNORED]), class_loss_scale=2.0)
    judged = replace(batch, judged_bs=labels != 3, judged_loss_scale=50.0)
    both = replace(judged, classes_b=torch.tensor([0, 1]))
    assert count_valid([batch], Axis.alone()) == (3, 0, 0)
    assert count_valid([asked, batch], Axis.alone()) == (6, 1, 0)
    assert count_valid([judged, judged], Axis.alone()) == (6, 0, 10)
    assert count_valid([judged, both, asked], Axis.alone()) == (9, 3, 10)
    assert count_valid([], Axis.alone()) == (0, 0, 0)
    assert count_valid([unlearned(asked), unlearned(judged)], Axis.alone()) == (0, 0, 0)
    scaled = Valid(6, 4, 10).mean_of(replace(asked, judged_loss_scale=50.0))
    assert (scaled.loss_scale, scaled.class_loss_scale, scaled.judged_loss_scale) == (0.5, 0.5, 5.0)
    assert not Valid(0, 0).mean_of(judged).learns
    assert Valid(0, 0, 1).mean_of(judged).learns
    twice = judged.scaled(2.0)
    assert (twice.loss_scale, twice.judged_loss_scale) == (6.0, 100.0)


def test_the_objective_is_found_by_name() -> None:
    config = run_config(Layout())
    assert objective_of(config) is clm
    own = config.objective.model_copy(update={"name": "tests.training.test_feed:uneven"})
    assert objective_of(config.model_copy(update={"objective": own})) is uneven
    unknown = config.objective.model_copy(update={"name": "clmm"})
    with pytest.raises(UserError, match=r"objective.name: 'clmm' is not known; did you mean 'clm'\?"):
        objective_of(config.model_copy(update={"objective": unknown}))
