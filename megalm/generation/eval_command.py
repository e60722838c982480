"""``megalm eval`` as each rank carries it out; the first one prints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megalm.data.bpe import open_tokenizer
from megalm.errors import UserError
from megalm.generation.opened import mesh_of, open_model, tokenizer_file
from megalm.generation.perplexity import score
from megalm.generation.texts import open_text
from megalm.launcher.placement import Placement
from megalm.training.document_end import end_ids


@dataclass(frozen=True)
class Question:
    """What the command line asks for.

    Args:
        directory: a checkpoint or a run.
        overrides: the layout and the like.
        data: the text.
        window: tokens that are read together; ``None`` for as many as in training.
        stride: how far a window moves on; ``None`` for the whole window.
        tokenizer: a ``tokenizer.json``, if not the run's own.
        batch_size: windows at a time.
        task: whose model it is, of a run of several tasks.
    """

    directory: Path
    overrides: Sequence[str]
    data: Path
    window: int | None = None
    stride: int | None = None
    tokenizer: Path | None = None
    batch_size: int = 8
    task: str | None = None


def run(question: Question, placement: Placement) -> int:
    """Predict the text as one rank of the layout, print what came of it, and return the exit code.

    Raises:
        UserError: something that the user can mend.
    """
    with mesh_of(question.overrides, placement) as mesh:
        model = open_model(question.directory, question.overrides, mesh, question.task)
        if model.reads_sources:
            raise UserError(
                f"megalm eval predicts each token of a text, and model.family={model.config.model.family} reads one "
                "text to say another; its held-out loss is in its run's metrics."
            )
        most = model.config.model.longest_sequence
        length = question.window or model.config.train.seq_length
        stride = question.stride or length
        if most is not None and length > most:
            raise UserError(f"--window {length} is longer than the {most} positions of the model; lower it.")
        if stride > length:
            raise UserError(f"--stride {stride} would leave out tokens between windows of {length}; lower it.")
        file = tokenizer_file(model.config, question.directory, question.tokenizer)
        tokenizer = None if file is None else open_tokenizer(file)
        text = open_text(question.data, tokenizer, file, end_ids(model.config, tokenizer))
        highest = max(max(text.tokens(first, first + length)) for first in range(0, text.num_tokens, length))
        if highest >= model.config.model.vocab_size:
            raise UserError(
                f"--data {question.data} has token {highest}, and the model knows 0 to "
                f"{model.config.model.vocab_size - 1}; give the tokenizer and the data of the model."
            )
        found = score(model, text.tokens, text.num_tokens, length, stride, question.batch_size)
        if mesh.rank == 0:
            bits = "" if text.num_bytes is None else f" | bits/byte {found.loss / math.log(2) / text.num_bytes:.4f}"
            print(f"tokens {found.tokens} | loss {found.mean:.6f} | perplexity {found.perplexity:.4f}{bits}")
    return 0
