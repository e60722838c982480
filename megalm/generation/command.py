"""``megalm generate`` and ``megalm eval`` as each rank carries them out; the first one prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from megalm.data.bpe import open_tokenizer
from megalm.data.special_tokens import SpecialTokens
from megalm.errors import UserError
from megalm.generation.ending import Ending, Stream
from megalm.generation.generate import Reader, generate
from megalm.generation.model import LanguageModel
from megalm.generation.opened import mesh_of, open_model, tokenizer_file
from megalm.generation.options import Options
from megalm.generation.reader import SequenceReader
from megalm.generation.target_reader import TargetReader
from megalm.launcher.placement import Placement
from megalm.training.document_end import end_ids
from megalm.training.seq2seq import framing_of


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Args:
        directory: a checkpoint or a run.
        overrides: the layout and the like.
        prompts: texts to continue.
        prompt_ids: token ids to continue; one of the two is empty.
        options: how.
        stop_texts: what ends a continuation, beside the end of a document.
        tokenizer: a ``tokenizer.json``, if not the run's own.
        batch_size: prompts that are continued together; ``None`` for all.
        task: whose model it is, of a run of several tasks.
    """

    directory: Path
    overrides: Sequence[str]
    prompts: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    options: Options
    stop_texts: Sequence[str] = ()
    tokenizer: Path | None = None
    batch_size: int | None = None
    task: str | None = None


def run(request: Request, placement: Placement) -> int:
    """Continue the prompts as one rank of the layout, and return the exit code.

    Raises:
        UserError: something that the user can mend.
    """
    with mesh_of(request.overrides, placement) as mesh:
        model = open_model(request.directory, request.overrides, mesh, request.task)
        file = tokenizer_file(model.config, request.directory, request.tokenizer)
        tokenizer = None if file is None else open_tokenizer(file)
        prompts = _encoded(request, tokenizer)
        _check(prompts, request.options, model)
        framing = framing_of(model.config, SpecialTokens.of(file)) if model.reads_sources else None
        ends = end_ids(model.config, tokenizer) if framing is None else [framing.end]
        ending = Ending(ends, request.stop_texts, tokenizer)
        printer = _Printer(request, tokenizer, ending, silent=mesh.rank > 0)
        size = request.batch_size or len(prompts)
        for first in range(0, len(prompts), size):

            def told(prompt: int, tokens: Sequence[int], first: int = first) -> None:
                printer.hear(first + prompt, tokens)

            begun = prompts[first : first + size]
            reader: Reader = SequenceReader(model, request.options.max_new_tokens)
            if framing is not None:
                sources = begun if request.prompt_ids else [framing.around(np.array(ids)).tolist() for ids in begun]
                reader = TargetReader(model, request.options.max_new_tokens, sources)
                begun = [[framing.start]] * len(sources)
            found = generate(reader, begun, request.options, ending, told, first)
            for number, tokens in enumerate(found):
                printer.end(first + number, tokens)
    return 0


def _encoded(request: Request, tokenizer: Tokenizer | None) -> list[list[int]]:
    if request.prompt_ids:
        return [list(ids) for ids in request.prompt_ids]
    if tokenizer is None:
        raise UserError(
            f"{request.directory}: the tokenizer of its run is not there; name it with --tokenizer, or give "
            "--prompt-ids."
        )
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in request.prompts]


def _check(prompts: Sequence[Sequence[int]], options: Options, model: LanguageModel) -> None:
    """Refuse prompts that the model cannot read."""
    vocab_size, most = model.config.model.vocab_size, model.config.model.longest_sequence
    for number, tokens in enumerate(prompts):
        if not tokens:
            raise UserError(f"prompt {number} has no tokens, and there is nothing to continue; give it some text.")
        worst = max(tokens)
        if worst >= vocab_size or min(tokens) < 0:
            raise UserError(
                f"prompt {number} has token {worst if worst >= vocab_size else min(tokens)}, and the model knows 0 to "
                f"{vocab_size - 1}; give its own tokenizer, or other ids."
            )
        if model.reads_sources:
            _check_sizes(number, len(tokens), options.max_new_tokens, most)
        elif most is not None and len(tokens) + options.max_new_tokens > most:
            raise UserError(
                f"prompt {number} has {len(tokens)} tokens, and {options.max_new_tokens} new ones would make more than "
                f"the {most} positions of the model; shorten it, or lower --max-new-tokens."
            )


def _check_sizes(number: int, length: int, max_new_tokens: int, most: int | None) -> None:
    """Refuse a source or a target that has no positions; each has its own, with what frames it."""
    if most is not None and max(length, max_new_tokens) + 2 > most:
        raise UserError(
            f"prompt {number} has {length} tokens and may get {max_new_tokens} new ones, and the model has {most} "
            "positions for each, of which two are for the tokens around a text; shorten it, or lower --max-new-tokens."
        )


class _Printer:
    """Writes continuations in the order of their prompts; a single one as it grows."""

    def __init__(self, request: Request, tokenizer: Tokenizer | None, ending: Ending, *, silent: bool) -> None:
        self._request, self._tokenizer, self._ending, self._silent = request, tokenizer, ending, silent
        self._alone = len(request.prompts) + len(request.prompt_ids) == 1
        self._stream = None if tokenizer is None or not request.prompts else Stream(tokenizer, ending, self._write)
        self._begun = False

    def hear(self, prompt: int, tokens: Sequence[int]) -> None:
        """Take new tokens."""
        if self._alone:
            self._add(tokens)

    def end(self, prompt: int, tokens: Sequence[int]) -> None:
        """Take a whole continuation, all those before it being done."""
        if not self._alone:
            if self._request.prompts:
                assert self._tokenizer is not None
                self._write(f"{'' if prompt == 0 else chr(10)}> {self._request.prompts[prompt]}\n")
                self._stream = Stream(self._tokenizer, self._ending, self._write)
            self._begun = False
            self._add(tokens)
        if self._stream is not None:
            self._stream.end()
        self._write("\n")

    def _add(self, tokens: Sequence[int]) -> None:
        if self._stream is not None:
            self._stream.add(tokens)
        else:
            self._write(("," if self._begun else "") + ",".join(str(token) for token in tokens))
            self._begun = True

    def _write(self, text: str) -> None:
        if not self._silent:
            print(text, end="", flush=True)
