"""A trained model as lm-evaluation-harness asks it: likelihoods of texts, and text up to where it should stop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer

from megalm.data.bpe import open_tokenizer
from megalm.errors import UserError
from megalm.generation.ending import Ending
from megalm.generation.generate import generate
from megalm.generation.model import LanguageModel
from megalm.generation.opened import open_model, tokenizer_file
from megalm.generation.options import Options
from megalm.generation.perplexity import score
from megalm.generation.reader import SequenceReader, batch_of
from megalm.mesh import Mesh
from megalm.training.document_end import end_ids

MAX_NEW_TOKENS = 256
"""Of a request that does not say how long its answer may be."""


class Request(Protocol):
    """What the harness asks: its ``Instance``."""

    args: tuple[Any, ...]


class Answers:
    """The three questions of the harness's ``LM``.

    Args:
        model: on one process.
        tokenizer: its own.
        end_id: the token that ends documents; it stands before a text that has no context.
        batch_size: texts that are read at a time.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, end_id: int, batch_size: int = 8) -> None:
        """See the class."""
        super().__init__()  # the harness's own, which stands behind this one
        self._model, self._tokenizer, self._end_id, self._batch_size = model, tokenizer, end_id, batch_size
        self._most = model.config.model.longest_sequence or model.config.train.seq_length

    def loglikelihood(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        """Return, for each (context, continuation), its log probability and whether it is the greedy one."""
        pairs = [self._pair(*request.args) for request in requests]
        order = sorted(range(len(pairs)), key=lambda at: -len(pairs[at][0]))
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self._batch_size):
            together = order[first : first + self._batch_size]
            found |= zip(together, self._likelihoods([pairs[at] for at in together]), strict=True)
        return [found[at] for at in range(len(pairs))]

    def loglikelihood_rolling(self, requests: Sequence[Request], **_: Any) -> list[float]:
        """Return the log probability of each whole text, in windows as long as the model allows."""
        found = []
        for request in requests:
            tokens = [self._end_id, *self._encoded(request.args[0])]
            found.append(-self._rolled(tokens))
        return found

    def _rolled(self, tokens: Sequence[int]) -> float:
        windows = (len(tokens), self._most, self._most, self._batch_size)
        return score(self._model, lambda first, end: tokens[first:end], *windows).loss

    def generate_until(self, requests: Sequence[Request], **_: Any) -> list[str]:
        """Return what follows each context, up to the first of its stop texts."""
        return [self._text(number, *request.args) for number, request in enumerate(requests)]

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """Return the tokens of both, and how many of them are the context's; too long a context loses its beginning.

        White space between them is the continuation's, as tokens begin with it.
        """
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before = self._encoded(bare) or [self._end_id]
        whole = self._encoded(bare + continuation)
        after = whole[len(before) :] if bare else whole
        if len(after) > self._most:
            raise UserError(
                f"a continuation of {len(after)} tokens is longer than the {self._most} positions of the model; leave "
                "out its task, or take a longer model."
            )
        kept = before[-(self._most + 1 - len(after)) :]
        return [*kept, *after], len(kept)

    def _likelihoods(self, pairs: Sequence[tuple[list[int], int]]) -> Iterable[tuple[float, bool]]:
        batch = batch_of([tokens[:-1] for tokens, _ in pairs], [0] * len(pairs), self._model.mesh.device)
        labels_bs = batch.labels_bs.clone()
        for row, (tokens, context) in enumerate(pairs):
            labels_bs[row, context - 1 : len(tokens) - 1] = torch.tensor(tokens[context:])
        asked = replace(batch, labels_bs=labels_bs)
        logits = self._model.logits(asked)
        wanted = labels_bs[asked.asked_bs].unsqueeze(1)
        said = logits.log_softmax(-1).gather(1, wanted).squeeze(1)
        greedy = logits.argmax(-1) == wanted.squeeze(1)
        counts = [len(tokens) - context for tokens, context in pairs]
        for one, agrees in zip(said.split(counts), greedy.split(counts), strict=True):
            yield float(one.sum()), bool(agrees.all())

    def _text(self, number: int, context: str, asked: Mapping[str, Any]) -> str:
        until = asked.get("until") or []
        most_new = min(int(asked.get("max_gen_toks", MAX_NEW_TOKENS)), self._most - 1)
        draws = bool(asked.get("do_sample", False)) and float(asked.get("temperature", 1.0)) > 0
        options = Options(
            most_new,
            temperature=float(asked.get("temperature", 1.0)) if draws else 0.0,
            top_k=asked.get("top_k") if draws else None,
            top_p=asked.get("top_p") if draws else None,
        )
        ending = Ending([self._end_id], [until] if isinstance(until, str) else until, self._tokenizer)
        prompt = (self._encoded(context) or [self._end_id])[-(self._most - most_new) :]
        reader = SequenceReader(self._model, most_new)
        (tokens,) = generate(reader, [prompt], options, ending, first_number=number)
        return ending.cut(self._tokenizer.decode(tokens))


def harness_model(
    directory: Path,
    tokenizer: Path | None = None,
    *,
    batch_size: int = 8,
    precision: str | None = None,
    task: str | None = None,
) -> Any:
    """Return a model for ``lm_eval.simple_evaluate(model=...)``, on one process.

    Args:
        directory: a checkpoint, a run, or a Hugging Face directory.
        tokenizer: its ``tokenizer.json``, if not the run's own.
        batch_size: texts that are read at a time.
        precision: as ``train.precision``; that of the run if not given.
        task: whose model it is, of a run of several tasks.

    Raises:
        UserError: the harness is not installed, or what is needed is not there.
    """
    base = _harness()
    overrides = [] if precision is None else [f"train.precision={precision}"]
    model = open_model(directory, overrides, Mesh.alone(), task)
    if model.reads_sources:
        raise UserError(f"{directory} holds an encoder-decoder, which gives no likelihood of one text; name a decoder.")
    file = tokenizer_file(model.config, directory, tokenizer)
    if file is None:
        raise UserError(f"{directory}: the tokenizer of its run is not there; name it.")
    opened = open_tokenizer(file)
    ends = end_ids(model.config, opened)
    if not ends:
        raise UserError(
            f"{file} has no token that ends documents, which stands for an empty context; name another one."
        )
    return type("MegalmModel", (Answers, base), {})(model, opened, ends[0], batch_size)


def _harness() -> Any:
    try:
        return import_module("lm_eval.api.model").LM
    except ImportError as error:
        raise UserError(f"a model for lm-evaluation-harness needs it ({error}); pip install lm_eval.") from error
