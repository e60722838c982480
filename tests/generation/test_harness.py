"""Oracle: the plain forward of the saved model, and a stand-in for the harness's class of three questions."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from megalm.errors import UserError
from megalm.generation.harness import harness_model
from tests.generation.trained import POSITIONS, bytes_tokenizer, plain_logits, saved, trained
from tests.verify.multitask_runs import WINDOWS, multitask
from tests.verify.runs import GPT2

END = 256


class Base(ABC):
    """The harness's ``lm_eval.api.model.LM`` as far as an evaluation uses it."""

    def __init__(self) -> None:
        self._rank, self._world_size, self.cache_hook = 0, 1, None

    @abstractmethod
    def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]: ...

    @abstractmethod
    def loglikelihood_rolling(self, requests: Any) -> list[float]: ...

    @abstractmethod
    def generate_until(self, requests: Any) -> list[str]: ...


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    directory = tmp_path_factory.mktemp("run")
    _, model = trained(directory, GPT2, model={"vocab_size": 257})
    bytes_tokenizer().save(str(directory / "tokenizer.json"))
    return directory, model


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("lm_eval.api.model")
    vars(package)["LM"] = Base
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", package)


@pytest.fixture
def asked(plain: tuple[Path, nn.Module], harness: None) -> Any:
    """Return the model as the harness has it."""
    return harness_model(plain[0], batch_size=2)


def questions(*arguments: tuple[Any, ...]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=each) for each in arguments]


def losses(model: nn.Module, tokens: list[int]) -> list[float]:
    """Return the log probability of each token but the first."""
    with torch.no_grad():
        said = plain_logits(model, tokens[:-1]).log_softmax(-1)
    return [float(said[place, token]) for place, token in enumerate(tokens[1:])]


def ids(text: str) -> list[int]:
    return list(bytes_tokenizer().encode(text).ids)


def test_likelihoods(asked: Any, plain: tuple[Path, nn.Module]) -> None:
    assert isinstance(asked, Base)
    assert (asked._rank, asked._world_size) == (0, 1)
    pairs = [("def ", "read"), ("x", " = 1"), ("", "alone"), ("a longer context than the others ", "é"), ("b", "c")]
    wanted = []
    for context, continuation in pairs:
        begun = [END] if not context else ids(context.rstrip())
        after = ids(context[len(context.rstrip()) :] + continuation)
        wanted.append(sum(losses(plain[1], begun + after)[-len(after) :]))
    found = asked.loglikelihood(questions(*pairs))
    assert [likelihood for likelihood, _ in found] == pytest.approx(wanted, rel=1e-10)


def test_greedy_is_told(asked: Any, plain: tuple[Path, nn.Module]) -> None:
    tokens = ids("de")
    while True:  # up to a place where the most probable token is a letter
        best = int(plain_logits(plain[1], tokens)[-1].argmax())
        letter = bytes_tokenizer().decode([best])
        if ids(letter) == [best] and letter.strip():
            break
        tokens.append(ids("z")[0])
    context = bytes_tokenizer().decode(tokens)
    other = "q" if letter != "q" else "w"
    found = asked.loglikelihood(questions((context, letter), (context, other), (context, letter + other)))
    assert [greedy for _, greedy in found][:2] == [True, False]


def test_a_long_context_loses_its_beginning(asked: Any, plain: tuple[Path, nn.Module]) -> None:
    context = "".join(chr(97 + n % 26) for n in range(100))
    kept = ids(context)[-(POSITIONS + 1 - 3) :]
    ((found, _),) = asked.loglikelihood(questions((context, "xyz")))
    assert found == pytest.approx(sum(losses(plain[1], [*kept, *ids("xyz")])[-3:]), rel=1e-10)
    with pytest.raises(UserError, match="longer than the 48 positions"):
        asked.loglikelihood(questions(("a", "b" * 49)))


def test_rolling(asked: Any, plain: tuple[Path, nn.Module]) -> None:
    """The last window of a long text is whole, and only what was not predicted yet counts."""
    short, long = "some text", "".join(chr(97 + n * n % 26) for n in range(60))
    tokens = [END, *ids(long)]
    wanted = [
        sum(losses(plain[1], [END, *ids(short)])),
        sum(losses(plain[1], tokens[: POSITIONS + 1])) + sum(losses(plain[1], tokens[-POSITIONS - 1 :])[-12:]),
    ]
    assert asked.loglikelihood_rolling(questions((short,), (long,))) == pytest.approx(wanted, rel=1e-10)


def test_text_until(asked: Any) -> None:
    (whole,) = asked.generate_until(questions(("def ", {"max_gen_toks": 12})))
    assert whole
    stop = whole[3:5]
    cut, drawn = asked.generate_until(
        questions(
            ("def ", {"until": [stop], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}),
            ("def ", {"until": stop, "max_gen_toks": 12, "do_sample": True, "temperature": 5.0}),
        )
    )
    assert cut == whole[: whole.index(stop)]
    assert drawn != cut


def test_one_of_several_tasks(tmp_path: Path, harness: None) -> None:
    tasks = [{"name": name, "data": WINDOWS, "samples": 6} for name in ("one", "other")]
    soft = {"sharing": "soft", "soft_penalty": 1.0}
    towers: Any = saved(tmp_path, multitask(GPT2, tasks, objective=soft, model={"vocab_size": 257})).towers
    bytes_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, tower in (("one", towers.task_one), ("other", towers.task_other)):
        ((likelihood, _),) = harness_model(tmp_path, task=name).loglikelihood(questions(("ab", "c")))
        assert likelihood == pytest.approx(losses(tower, ids("abc"))[-1], abs=1e-10)
    with pytest.raises(UserError, match="name one of them with --task: one, other"):
        harness_model(tmp_path)


def test_without_the_harness(plain: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="pip install lm_eval"):
        harness_model(plain[0])
