"""``megalm generate`` and ``megalm eval``: text from a trained model, and what it makes of text."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from megalm.cli.arguments import Overrides
from megalm.cli.loading import loading
from megalm.errors import UserError
from megalm.generation.asked import asked
from megalm.generation.options import Options
from megalm.launcher.local import launch
from megalm.launcher.placement import Placement, from_environment
from megalm.launcher.relay import STDIN, is_typed, ranks_environment, relayed

Weights = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A checkpoint, a run's directory (its newest), or a Hugging Face one.", show_default=False
    ),
]
Task = Annotated[
    str | None,
    typer.Option(help="Of a run of several tasks: whose model, where each has its own.", show_default=False),
]
TokenizerFile = Annotated[
    Path | None, typer.Option(help="A tokenizer.json; that of the run's data if not given.", show_default=False)
]


def over_ranks(
    overrides: Sequence[str], arguments: Sequence[str], work: Callable[[Placement], int], *, reads: bool = False
) -> int:
    """Do the work here, or on as many local processes as the layout needs, and return the exit code.

    Args:
        overrides: say the layout.
        arguments: the command line, for processes that are started.
        work: what this process does of it, at its place.
        reads: whether the first rank reads what is typed here.
    """
    placement = from_environment(os.environ)
    if placement is None:
        world_size = asked(overrides).layout.world_size
        if world_size > 1:
            command = [sys.executable, "-m", "megalm", *arguments]
            with relayed(STDIN) if reads else nullcontext() as typed:
                env = ranks_environment(STDIN, os.environ) if reads else os.environ
                outcome = launch(command, world_size, stdin=typed, env=env)
            if outcome.message:
                print(f"megalm: {outcome.message}", file=sys.stderr, flush=True)
            return outcome.code
    return work(placement or Placement.alone())


def generate(
    context: typer.Context,
    directory: Weights,
    overrides: Overrides = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; repeatable.", show_default=False)] = None,
    prompt_ids: Annotated[
        list[str] | None,
        typer.Option(help="Token ids to continue, as 5,17; ids are printed too.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest continuation.")] = Options.max_new_tokens,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token; above, it is drawn.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the K most probable.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest with this probability together.", show_default=False)
    ] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes seen tokens less probable.")] = 1.0,
    num_beams: Annotated[int, typer.Option(help="Search for the most probable continuation, with so many kept.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = Options.seed,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends a continuation; may be repeated.", show_default=False)
    ] = None,
    tokenizer: TokenizerFile = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer line by line what is typed; /reset forgets, /exit ends.")
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(help="Of --chat: alpaca, chatml, ins or a TOML file; that of the run's data if not given."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Of --chat: what the system says before all.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Prompts continued together; all if not given.", show_default=False)
    ] = None,
    task: Task = None,
) -> int:
    """Continue prompts with a trained model, or answer what is typed, at any layout."""
    options = Options(max_new_tokens, temperature, top_k, top_p, repetition_penalty, num_beams, seed)
    if chat:
        for name, given in (("prompt", prompt), ("prompt-ids", prompt_ids), ("batch-size", batch_size)):
            if given:
                raise UserError(f"--{name} has no effect with --chat, which answers what is typed; remove one of them.")

        def answer(placement: Placement) -> int:
            with loading():
                from megalm.generation.chat_command import Chat, run
            typed = is_typed(STDIN, os.environ)
            request = Chat(directory, overrides or (), options, stop or (), tokenizer, template, system, task, typed)
            return run(request, placement)

        return over_ranks(overrides or (), context.obj, answer, reads=True)
    for name, text in (("template", template), ("system", system)):
        if text is not None:
            raise UserError(f"--{name} has no effect without --chat; remove it.")
    if bool(prompt) == bool(prompt_ids):
        raise UserError("give what is to be continued, either by --prompt TEXT or by --prompt-ids 5,17.")
    ids = [_ids(text) for text in prompt_ids or ()]

    def work(placement: Placement) -> int:
        with loading():
            from megalm.generation.command import Request, run
        return run(
            Request(directory, overrides or (), prompt or (), ids, options, stop or (), tokenizer, batch_size, task),
            placement,
        )

    return over_ranks(overrides or (), context.obj, work)


def _ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UserError(f"--prompt-ids {text!r} is not understood; give token ids, as 5,17.")
    return [int(word) for word in words]


def evaluate(
    context: typer.Context,
    directory: Weights,
    data: Annotated[
        Path,
        typer.Option(
            help="A text file, a directory made by megalm data prepare (its held-out split), or a .bin/.idx prefix.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens read together; as many as in training if not given.", show_default=False),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="How far a window moves on: shorter gives more context.", show_default=False),
    ] = None,
    tokenizer: TokenizerFile = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows read at a time.")] = 8,
    task: Task = None,
) -> int:
    """Print the loss and the perplexity of a trained model on a text, at any layout."""

    def work(placement: Placement) -> int:
        with loading():
            from megalm.generation.eval_command import Question, run
        question = Question(directory, overrides or (), data, window, stride, tokenizer, batch_size, task)
        return run(question, placement)

    return over_ranks(overrides or (), context.obj, work)
