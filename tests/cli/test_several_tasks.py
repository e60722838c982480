"""Oracle: the saved model itself, each task's own or what all share, read by its plain forward; transformers' names."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.cli.main import run
from megalm.generation.generate import generate
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.generation.reader import SequenceReader
from megalm.layout import Layout
from megalm.mesh import Mesh
from tests.cli.refusals import assert_refused
from tests.data.test_record_cuts import corpus
from tests.generation.trained import PlainReading, plain_logits, saved, trained
from tests.hugging_face.directories import tensors_in
from tests.ranks import RankContext, RankPool
from tests.verify.multitask_runs import BERT, multitask, tasks_for_a_decoder, tasks_for_an_encoder
from tests.verify.runs import LLAMA_TIED

NEW, PROMPTS = 8, [[5, 17], [40]]
TEXT = [3, 1000, 14, 15, 92, 653, 58, 9, 7, 93]
SHARINGS = ("hard", "soft")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    corpus(folder / "text", [[(0, TEXT)]])
    return folder


@pytest.fixture(scope="module")
def decoders(place: Path) -> dict[str, nn.Module]:
    return {
        sharing: saved(
            place / sharing, multitask(LLAMA_TIED, tasks_for_a_decoder(place), objective={"sharing": sharing})
        )
        for sharing in SHARINGS
    }


@pytest.fixture(scope="module")
def encoders(place: Path) -> dict[str, nn.Module]:
    return {
        sharing: saved(
            place / f"bert-{sharing}", multitask(BERT, tasks_for_an_encoder(place), objective={"sharing": sharing})
        )
        for sharing in SHARINGS
    }


@pytest.fixture(scope="module")
def others(place: Path) -> None:
    """A run of one objective, one whose tasks all classify, and a directory of Hugging Face's."""
    trained(place / "alone", LLAMA_TIED)
    labelled = [{**task, "samples": 6} for task in tasks_for_a_decoder(place) if "num_labels" in task]
    saved(place / "classes", multitask(LLAMA_TIED, labelled))
    (place / "theirs").mkdir()
    (place / "theirs" / "config.json").write_text("{}")


def of_task(model: nn.Module, task: str) -> nn.Module:
    found: nn.Module = model.towers[f"task_{task}"]  # type: ignore[index, assignment]
    return found


def said_plainly(model: nn.Module) -> list[list[int]]:
    with torch.no_grad():
        return generate(PlainReading(model), PROMPTS, Options(NEW))


def said(place: Path, capfd: pytest.CaptureFixture[str], *flags: str) -> list[list[int]]:
    asked = [word for prompt in PROMPTS for word in ("--prompt-ids", ",".join(str(token) for token in prompt))]
    assert run(["generate", str(place), *asked, "--max-new-tokens", str(NEW), *flags], {}) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return [[int(token) for token in line.split(",")] for line in out.splitlines()]


def test_text_of_what_tasks_share_and_of_the_model_of_each(
    place: Path, decoders: dict[str, nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    shared = said_plainly(decoders["hard"])
    assert said(place / "hard", capfd) == said(place / "hard", capfd, "--task", "talks") == shared
    of_each = [said_plainly(of_task(decoders["soft"], task)) for task in ("docs", "talks")]
    assert of_each[0] != of_each[1]
    assert [said(place / "soft", capfd, "--task", task) for task in ("docs", "talks")] == of_each


def said_by_rank(_: RankContext, directory: Path, layout: Layout) -> list[list[int]]:
    overrides = [f"layout.tp={layout.tp}", f"layout.pp={layout.pp}"]
    model = open_model(directory, overrides, Mesh.build(layout, timeout_s=30), "talks")
    return generate(SequenceReader(model, NEW), PROMPTS, Options(NEW))


def test_text_of_the_model_of_a_task_over_ranks(ranks: RankPool, place: Path, decoders: dict[str, nn.Module]) -> None:
    expected = said_plainly(of_task(decoders["soft"], "talks"))
    assert ranks.run(4, said_by_rank, place / "soft", Layout(tp=2, pp=2)) == [expected] * 4


def test_the_loss_of_a_text(place: Path, decoders: dict[str, nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    cases: dict[tuple[str, ...], nn.Module] = {("hard",): decoders["hard"]}
    cases |= {("soft", "--task", task): of_task(decoders["soft"], task) for task in ("docs", "talks")}
    for words, model in cases.items():
        sharing, *flags = words
        with torch.no_grad():
            loss = F.cross_entropy(plain_logits(model, TEXT[:-1]), torch.tensor(TEXT[1:])).item()
        assert run(["eval", str(place / sharing), "--data", str(place / "text"), *flags], {}) == 0
        out, err = capfd.readouterr()
        assert (out.split("|")[1].strip(), err) == (f"loss {loss:.6f}", "")


def exported(source: Path, out: Path, capfd: pytest.CaptureFixture[str], *flags: str) -> tuple[dict[str, Tensor], str]:
    assert run(["export", str(source), str(out), *flags], {}) == 0
    told, err = capfd.readouterr()
    assert err == ""
    assert "logits equal those of transformers" in told
    return tensors_in(out), told


def test_exports(
    place: Path, encoders: dict[str, nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hard, soft = encoders["hard"].state_dict(), encoders["soft"].state_dict()
    table, head = "model.embedding.embed_tokens.weight", "classifier.weight"
    their_table = "bert.embeddings.word_embeddings.weight"
    found, told = exported(place / "bert-hard", tmp_path / "shared", capfd)
    assert "heads of tasks that are left out: kind, place;" in told
    assert torch.equal(found[their_table], hard[table])
    assert torch.equal(found["cls.predictions.transform.dense.weight"], hard["lm_head.dense.weight"])
    for task, other in (("kind", "place"), ("place", "kind")):
        found, told = exported(place / "bert-hard", tmp_path / f"shared-{task}", capfd, "--task", task)
        assert f"heads of tasks that are left out: {other};" in told
        assert torch.equal(found[their_table], hard[table])
        assert torch.equal(found[head], hard[f"task_heads.task_{task}.{head}"])
        found, told = exported(place / "bert-soft", tmp_path / f"own-{task}", capfd, "--task", task)
        assert "left out" not in told
        assert torch.equal(found[their_table], soft[f"towers.task_{task}.{table}"])
        assert torch.equal(found[head], soft[f"towers.task_{task}.score.{head}"])
    found, _ = exported(place / "bert-soft", tmp_path / "own-pairs", capfd, "--task", "pairs")
    assert torch.equal(found["cls.seq_relationship.weight"], soft[f"towers.task_pairs.pair_head.{head}"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["generate", "soft"],
            "each task of the run has a model of its own; name one of them with --task: docs, kind, ta",
        ),
        (
            ["generate", "hard", "--task", "dogs"],
            "--task dogs is none of the run's; choose one of docs, kind, talks, pl",
        ),
        (
            ["generate", "soft", "--task", "kind"],
            "of its model.num_labels=4 classes a text is, and has no head for a ne",
        ),
        (
            ["generate", "alone", "--task", "docs"],
            "--task docs has no effect: the run learned one objective; remove it",
        ),
        (["generate", "theirs", "--task", "docs"], "theirs holds one model; remove it"),
        (["generate", "classes"], "all tasks of the run classify, and none has learned to say tokens; name one with"),
        (["eval", "soft"], "name one of them with --task"),
        (["eval", "hard", "--task", "place"], "has no head for a next token"),
        (["export", "soft", "out"], "name one of them with --task"),
        (["export", "hard", "out", "--task", "dogs"], "--task dogs is none of the run's"),
        (["export-ds", "hard/checkpoints/step-00000003", "out"], "is of a run of several tasks, which DeepSpeed's"),
    ],
    ids=str,
)
def test_what_is_not_chosen_or_is_not_there_is_refused(
    place: Path,
    decoders: dict[str, nn.Module],
    others: None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(place)
    more = {"generate": ["--prompt-ids", "5"], "eval": ["--data", "text"]}.get(words[0], [])
    assert_refused(capfd, [*words, *more], sentence)
    assert not (place / "out").exists()
    assert not list(place.glob("out*"))
