"""Oracle: each task alone, in one process in float64: its loss and gradients, weighted and summed by hand."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import TrainingData
from megalm.data.order import Place
from megalm.errors import UserError
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.evaluate import evaluate_tasks
from megalm.training.feed import cut_of
from megalm.training.loop import train_on
from megalm.training.samples import samples_of
from megalm.training.step import train_step
from megalm.training.tasks import TaskFeed, place_of, tasks_of
from tests.verify.encoder_decoder_runs import T5
from tests.verify.multitask_runs import (
    BERT,
    WINDOWS,
    multitask,
    tasks_for_a_decoder,
    tasks_for_an_encoder,
    tasks_for_an_encoder_decoder,
)
from tests.verify.runs import GPT2, GPT2_UNTIED, VOCAB_SIZE

CLASSES_COUNT = {"pairs": 0.5}
"""What the loss of samples counts beside that of tokens, where a task has both."""


def whole(config: RunConfig, step: int) -> list[MicroBatch]:
    """Return a step's micro-batches."""
    tasks = tasks_of(config)
    sources = [task.training_data() for task in tasks]
    return TaskFeed(tasks, sources, Mesh.alone(), config.objective.soft_penalty).training_step(step)


def gradients(state: TrainingState) -> dict[str, Tensor]:
    return {
        owned.slot.spec.name: owned.view(bucket.owned_gradients).clone()
        for bucket in state.buckets
        for owned in bucket.owned()
    }


@torch.no_grad()
def plain_loss(model: Any, batch: MicroBatch) -> float:
    """Return the mean loss of a micro-batch by torch's cross entropy: of tokens, of samples, or of both together."""
    loss = 0.0
    if batch.asked_bs.any():
        logits, labels = model.logits(batch).flatten(0, -2), batch.labels_bs.flatten()
        loss += F.cross_entropy(logits, labels, ignore_index=IGNORED).item()
    if batch.classes_b is not None:
        loss += CLASSES_COUNT.get(str(batch.task), 1.0) * class_loss(model, batch)
    return loss


def class_loss(model: Any, batch: MicroBatch) -> float:
    assert batch.classes_b is not None
    return F.cross_entropy(class_logits(model, batch), batch.classes_b).item()


@torch.no_grad()
def class_logits(model: Any, batch: MicroBatch) -> Tensor:
    *below, last = model.blocks()
    flow = None
    for block in below:
        flow = block(flow, batch)
    head = getattr(model.task_heads, f"task_{batch.task}") if batch.task in ("kind", "place") else model.pair_head
    found: Tensor = head.class_logits(last.norm(flow) if hasattr(last, "norm") else flow, batch)
    return found


@pytest.mark.parametrize(
    ("model", "tasks_in", "dropouts"),
    [
        (GPT2_UNTIED, tasks_for_a_decoder, ()),
        (BERT, tasks_for_an_encoder, ("hidden_dropout_prob", "attention_probs_dropout_prob")),
        (T5, tasks_for_an_encoder_decoder, ("dropout_rate",)),
    ],
)
def test_the_loss_and_its_gradients_are_the_weighted_sums_of_the_tasks(
    tmp_path: Path, model: str, tasks_in: Callable[[Path], list[dict[str, Any]]], dropouts: Sequence[str]
) -> None:
    tasks = tasks_in(tmp_path)
    sections = {"model": dict.fromkeys(dropouts, 0.0), "optimizer": {"clip_grad_norm": 0.0}}
    config = multitask(model, tasks, **sections)
    batches = whole(multitask(model, tasks, **sections, train={"micro_batch_size": 12}), 0)
    weights, alone = {task["name"]: task.get("weight", 1.0) for task in tasks}, build_state(config, Mesh.alone())
    assert [batch.task for batch in batches] == list(weights)
    losses, wanted = {}, dict.fromkeys(gradients(alone), torch.tensor(0.0))
    for batch in batches:
        tokens, samples, name = int(batch.asked_bs.sum()), len(batch.tokens_bs), str(batch.task)
        unweighted = replace(
            batch,
            loss_scale=1 / tokens if tokens else 0.0,
            class_loss_scale=0.0 if batch.classes_b is None else CLASSES_COUNT.get(name, 1.0) / samples,
        )
        losses[name] = alone.run([unweighted]).item()
        assert losses[name] == pytest.approx(plain_loss(alone.model, batch), rel=1e-12)
        for parameter, gradient in gradients(alone).items():
            wanted[parameter] = wanted[parameter] + weights[name] * gradient

    state = build_state(config, Mesh.alone())
    report = train_step(state, whole(config, 0))
    assert len(whole(config, 0)) == sum(-(-task["samples"] // 3) for task in tasks)
    assert report.loss == pytest.approx(sum(weights[name] * loss for name, loss in losses.items()), rel=1e-12)
    assert report.tasks == pytest.approx({name: weights[name] * loss for name, loss in losses.items()}, rel=1e-12)
    found = gradients(state)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-11, atol=1e-14, msg=name)
    heads = {name: gradient for name, gradient in found.items() if ".classifier.weight" in name}
    assert all(gradient.any() for gradient in heads.values())
    classify = [f"task_heads.task_{task['name']}.classifier.weight" for task in tasks if "num_labels" in task]
    assert {name for name in heads if "task_heads" in name} == set(classify)


@pytest.mark.parametrize("model", [GPT2, GPT2_UNTIED])
def test_towers_are_pulled_together_by_what_they_differ_by(tmp_path: Path, model: str) -> None:
    """The loss is that of the tasks and the penalty times the squared differences, by autograd over plain values."""
    soft = {"sharing": "soft", "soft_penalty": 0.03}
    config = multitask(model, tasks_for_a_decoder(tmp_path), objective=soft, optimizer={"clip_grad_norm": 0.0})
    alone, batches = build_state(config, Mesh.alone()), whole(config, 0)
    assert [batch.task for batch in batches[-2:]] == ["place", None]
    losses = alone.run(batches[:-1]).sum().item()
    plain = {name: value.detach().clone().requires_grad_() for name, value in alone.model.named_parameters()}
    apart = torch.zeros((), dtype=torch.float64)
    names = ["docs", "kind", "talks", "place"]
    for one, other in combinations(names, 2):
        for name, value in plain.items():
            counterpart = plain.get(name.replace(f"task_{one}.", f"task_{other}."))
            if f"task_{one}." in name and counterpart is not None and ".score." not in name:
                apart = apart + (value - counterpart).square().sum()
    (0.03 * apart).backward()
    state = build_state(config, Mesh.alone())
    report = train_step(state, batches)
    assert report.loss == pytest.approx(losses + 0.03 * apart.item(), rel=1e-12)
    assert report.tasks[None] == pytest.approx(0.03 * apart.item(), rel=1e-12)
    before, found = gradients(alone), gradients(state)
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        pull = plain[name].grad
        wanted = before[name] + (0 if pull is None else pull)
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-14, msg=name)
    assert sum(value.grad is None for value in plain.values()) == 2  # the heads of the two that classify


def test_a_task_goes_through_its_data_as_it_would_alone_and_samples_have_numbers_of_their_own(tmp_path: Path) -> None:
    config = multitask(GPT2_UNTIED, tasks_for_a_decoder(tmp_path), train={"micro_batch_size": 12})
    tasks = tasks_of(config)
    sources = [task.training_data() for task in tasks]
    feed, numbers = TaskFeed(tasks, sources, Mesh.alone()), []
    for step in range(3):
        batches = feed.training_step(step)
        numbers += [number for number, _ in samples_of(batches, Mesh.alone().dp)]
        for task, batch in zip(tasks, batches, strict=True):
            data = TrainingData(
                task.config.data,
                seq_length=13,
                global_batch_size=task.samples,
                vocab_size=VOCAB_SIZE,
                seed=config.run.seed,
                cut=cut_of(task.config),
            )
            rows = data.rows(step, 0, task.samples)
            plain = task.objective(rows, reset_attention=False)
            assert torch.equal(batch.tokens_bs, plain.tokens_bs)
            assert torch.equal(batch.labels_bs, plain.labels_bs)
    assert numbers == list(range(36))
    assert place_of(12 + 1, tasks, sources) == sources[0].place(2 + 1)
    kind = sources[1].place(4 * 2 + 3)
    assert place_of(24 + 2 + 3, tasks, sources) == Place(1, kind.epoch, kind.window)
    last = sources[3].place(4 * 1 + 3)
    assert place_of(23, tasks, sources) == Place(3, last.epoch, last.window)


def holding_out(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks, those with a corpus on disk judged on all of it."""
    for task in tasks:
        path = task["data"]["train"][0]["path"]
        if ":" not in path:
            task["data"] = {**task["data"], "validation": [path]}
    return tasks


def judged(folder: Path, **sections: Any) -> RunConfig:
    return multitask(GPT2_UNTIED, holding_out(tasks_for_a_decoder(folder)), **sections)


@pytest.mark.parametrize(
    ("model", "tasks_in", "classified"),
    [
        (GPT2_UNTIED, tasks_for_a_decoder, ["kind", "place"]),
        (BERT, tasks_for_an_encoder, ["pairs", "kind", "place"]),
        (T5, tasks_for_an_encoder_decoder, []),
    ],
)
def test_each_task_is_judged_by_its_own_head_and_on_its_own_samples(
    tmp_path: Path, model: str, tasks_in: Callable[[Path], list[dict[str, Any]]], classified: list[str]
) -> None:
    sections: dict[str, Any] = {
        "model": {} if model == T5 else {"initializer_range": 0.5},
        "train": {"eval_batches": 30},
    }
    config = multitask(model, holding_out(tasks_in(tmp_path)), **sections)
    state, tasks = build_state(config, Mesh.alone()), tasks_of(config)
    held_out = [task.held_out() for task in tasks]
    found = evaluate_tasks(state, tasks, held_out)
    weighted = 0.0
    for task, data in zip(tasks, held_out, strict=True):
        if not data.num_samples:  # a source of one's own holds nothing out
            assert f"task/{task.name}/val_loss" not in found
            continue
        batch = task.objective(data.rows(0, 0, data.num_samples), reset_attention=False)
        state.model.eval()
        loss = plain_loss(state.model, batch)
        assert found[f"task/{task.name}/val_loss"] == pytest.approx(loss, rel=1e-12)
        weighted += task.weight * loss
        if batch.classes_b is not None:
            said = class_logits(state.model, batch).argmax(-1)
            right = (said == batch.classes_b).double().mean().item()
            assert found[f"task/{task.name}/val_accuracy"] == pytest.approx(right)
    assert found["val_loss"] == pytest.approx(weighted, rel=1e-12) != 0
    assert {key for key in found if key.endswith("accuracy")} == {f"task/{name}/val_accuracy" for name in classified}


def rows_of(config: RunConfig) -> list[dict[str, Any]]:
    train_on(config, Mesh.alone(ledger=Ledger()), "one process")
    timed = ("tokens_per_s", "step_time_s", "memory_gib")
    lines = (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


def test_a_run_tells_the_losses_of_tasks_and_goes_on_where_it_was(tmp_path: Path) -> None:
    train = {"steps": 5, "eval_every": 2, "eval_batches": 2}
    run = {"dir": str(tmp_path / "whole"), "device": "cpu", "record_samples": True}
    rows = rows_of(judged(tmp_path, run=run, train=train))
    weights = {"docs": 0.5, "kind": 1.0, "talks": 2.0, "place": 0.25}
    for row in rows:
        of_tasks = [weights[name] * row[f"task/{name}/loss"] for name in weights]
        assert row["loss"] == pytest.approx(sum(of_tasks), rel=1e-12)
    assert [row["step"] for row in rows if "task/kind/val_f1" in row] == [2, 4, 5]
    assert rows[0]["task/kind/loss"] == pytest.approx(math.log(4), abs=0.2)
    assert rows[0]["task/place/loss"] == pytest.approx(math.log(3), abs=0.2)

    parts = {**run, "dir": str(tmp_path / "parts")}
    rows_of(judged(tmp_path, run=parts, train={**train, "stop_after": 2}))
    again = rows_of(judged(tmp_path, run=parts, train=train))
    assert again == rows
    of_samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "parts")]
    assert of_samples[0] == of_samples[1]
    told = (tmp_path / "whole" / "report.html").read_text()
    assert "Loss of the task place" in told
    assert "kind: Accuracy" in told


def test_a_run_of_towers_tells_what_they_differ_by_and_goes_on_where_it_was(tmp_path: Path) -> None:
    soft = {"sharing": "soft", "soft_penalty": 0.01}
    train = {"steps": 3, "eval_every": 1, "eval_batches": 2}
    run = {"dir": str(tmp_path / "whole"), "device": "cpu", "record_samples": True}
    rows = rows_of(judged(tmp_path, run=run, train=train, objective=soft))
    weights = {"docs": 0.5, "kind": 1.0, "talks": 2.0, "place": 0.25}
    for row in rows:
        of_tasks = [weights[name] * row[f"task/{name}/loss"] for name in weights]
        assert row["loss"] == pytest.approx(sum(of_tasks) + row["penalty"], rel=1e-12)
        assert {key for key in row if key.endswith("accuracy")} == {"task/kind/val_accuracy", "task/place/val_accuracy"}
    assert rows[0]["penalty"] > rows[1]["penalty"] > rows[2]["penalty"] > 0

    parts = {**run, "dir": str(tmp_path / "parts")}
    rows_of(judged(tmp_path, run=parts, train={**train, "stop_after": 1}, objective=soft))
    assert rows_of(judged(tmp_path, run=parts, train=train, objective=soft)) == rows
    seen = [json.loads(line) for line in (tmp_path / "parts" / "samples.jsonl").read_text().splitlines()]
    assert [sample["sample"] for row in seen for sample in row["samples"]] == list(range(36))


def changed(folder: Path, number: int, **fields: Any) -> list[dict[str, Any]]:
    tasks = tasks_for_a_decoder(folder)
    tasks[number] = {key: value for key, value in {**tasks[number], **fields}.items() if value is not None}
    return tasks


@pytest.mark.parametrize(
    ("number", "fields", "sentence"),
    [
        (0, {"objective": {"name": "clmm"}}, r"objective.tasks.0.objective.name=clmm is not for one of several tasks"),
        (
            0,
            {"objective": {"name": "multitask"}},
            r"objective.tasks.0.objective.name=multitask is not for one of sever",
        ),
        (0, {"objective": {"name": "mlm_nsp"}}, r"task docs: objective.name=mlm_nsp needs a model that reads to both"),
        (0, {"objective": {"name": "seq2seq"}}, r"task docs: objective.name=seq2seq is not for model.family=gpt2"),
        (0, {"objective": {"nsp": True}}, r"objective.nsp has no effect with objective.name=clm"),
        (0, {"weight": 0.0}, r"objective.tasks.0.weight must be above 0"),
        (0, {"data": None}, r"objective.tasks.0.data is missing"),
        (1, {"data": {}}, r"objective.tasks.1.data is missing"),
        (1, {"data": {"train": []}}, r"objective.tasks.1.data.train must be a list of 1 or more"),
        (1, {"samples": 5}, r"ask for 2 \+ 5 \+ 2 \+ 4 = 13 samples, and train.global_batch_size=12"),
        (1, {"num_labels": None}, r"objective.tasks.1.num_labels=null does not go with .*=classify"),
        (0, {"num_labels": 2}, r"objective.tasks.0.num_labels=2 does not go with objective.tasks.0.objective.name=clm"),
        (1, {"name": "docs"}, r"objective.tasks.1.name=docs is another task's too"),
        (1, {"name": "a/b"}, r"objective.tasks.1.name must "),
    ],
    ids=str,
)
def test_what_is_no_task_is_refused_in_one_sentence(
    tmp_path: Path, number: int, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        multitask(GPT2_UNTIED, changed(tmp_path, number, **fields))


@pytest.mark.parametrize(
    ("model", "objective", "sentence"),
    [
        (T5, {"name": "classify"}, "task mine: objective.name=classify is not for model.family=t5: seq2seq is what an"),
        (T5, {"name": "clm"}, "task mine: objective.name=clm is not for model.family=t5: seq2seq is what an encoder-d"),
        (
            BERT,
            {"name": "instruct"},
            "task mine: objective.name=instruct asks for tokens that model.family=bert,",
        ),
        (BERT, {"name": "rtd"}, "objective.tasks.0.objective.name=rtd is not for one of several tasks; choose one of"),
    ],
    ids=str,
)
def test_what_the_family_does_not_learn_is_refused(model: str, objective: dict[str, Any], sentence: str) -> None:
    labels = {"num_labels": 3} if objective["name"] == "classify" else {}
    task = {"name": "mine", "objective": objective, "data": WINDOWS, "samples": 12, **labels}
    with pytest.raises(UserError, match=sentence):
        multitask(model, [task])


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"data": {"train": [{"path": "x"}]}}, "data has no effect with objective.name=multitask"),
        ({"model": {"num_labels": 3}}, "model.num_labels has no effect with objective.name=multitask"),
        ({"layout": {"dp": 4}}, "layout.dp=4 does not divide objective.tasks.0.samples=2"),
        (
            {"layout": {"dp": 2}, "zero": {"stage": 3, "backend": "fsdp2"}},
            "does not work with objective.name=multitask",
        ),
        ({"objective": {"soft_penalty": 0.1}}, "objective.soft_penalty has no effect with objective.name=multitask"),
        ({"objective": {"sharing": "soft", "soft_penalty": 0.0}}, "objective.soft_penalty must be above 0"),
        ({"objective": {"sharing": "soft"}, "model": {"family": "mine:build"}}, "soft does not work with model.family"),
        ({"objective": {"name": "clm"}}, "objective.tasks has no effect with objective.name=clm"),
        ({"objective": {"tasks": None}}, "objective.tasks is missing"),
        ({"objective": {"tasks": []}}, "objective.tasks must be a list of 1 or more"),
    ],
    ids=str,
)
def test_what_does_not_go_with_tasks_is_refused(tmp_path: Path, sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        multitask(GPT2_UNTIED, tasks_for_a_decoder(tmp_path), **sections)


def test_an_error_says_of_which_task_it_is(tmp_path: Path) -> None:
    config = multitask(GPT2_UNTIED, changed(tmp_path, 2, data={"train": [{"path": str(tmp_path / "gone")}]}))
    with pytest.raises(UserError, match=r"^task talks: data.train.0.path: .*gone is not there"):
        tasks_of(config)[2].training_data()
