"""Oracle: what `megalm data prepare` makes of the same conversation; and the plain forward of the saved model."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megalm.data.records import to_text
from megalm.data.render import Rendering
from megalm.data.template import TEMPLATES, Template
from megalm.errors import UserError
from megalm.generation.asked import asked
from megalm.generation.dialogue import Dialogue
from megalm.generation.dialogue_reader import DialogueReader
from megalm.generation.ending import Ending
from megalm.generation.generate import generate
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.mesh import Mesh
from tests.generation.trained import Noting, PlainReading, bytes_tokenizer, trained
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA

END, OPEN, CLOSE = 256, 257, 258
OWN = Template(user="Q: {content}\n", assistant="A: {content}\n--\n")
TURNS = ("hello", "and <|im_end|> you?", "yes", "bye", "so be it")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = bytes_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made.encode_special_tokens = True
    return made


def prepared(tokenizer: Tokenizer, template: Template, kind: Any, record: dict[str, Any]) -> list[list[int]]:
    """Return the parts of a record: given, asked, given, ..."""
    made = Rendering(kind, template).sequences(tokenizer, to_text(record), END)
    return [tokens.tolist() for _, tokens in made]


@pytest.mark.parametrize("template", [TEMPLATES["chatml"], TEMPLATES["ins"], OWN], ids=["chatml", "ins", "own"])
@pytest.mark.parametrize("system", [None, "be kind"])
def test_prompts_are_what_was_learned(tokenizer: Tokenizer, template: Template, system: str | None) -> None:
    messages = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(TURNS[:4])]
    before = [] if system is None else [{"role": "system", "content": system}]
    parts = prepared(tokenizer, template, "chat", {"messages": before + messages})
    dialogue = Dialogue(template, "chat", tokenizer, END, None, system)
    ending = Ending(dialogue.stop_ids, dialogue.stop_texts, tokenizer)
    assert dialogue.ask(TURNS[0]) == parts[0]
    answer = next(parts[1][:count] for count in range(1, len(parts[1]) + 1) if ending(parts[1][:count]))
    dialogue.answered(answer, ending)
    assert dialogue.ask(TURNS[2]) == list(chain(*parts[:3]))
    dialogue.reset()
    assert dialogue.ask(TURNS[0]) == parts[0]


def test_an_answer_that_was_cut_short_is_closed(tokenizer: Tokenizer) -> None:
    dialogue = Dialogue(TEMPLATES["chatml"], "chat", tokenizer, END, None, None)
    first = dialogue.ask("a")
    dialogue.answered([7, 8], Ending(dialogue.stop_ids, [], tokenizer))
    assert dialogue.ask("b")[: len(first) + 4] == [*first, 7, 8, CLOSE, *tokenizer.encode("\n").ids]


def test_an_instruction_is_asked_as_it_was_learned(tokenizer: Tokenizer) -> None:
    record = {"instruction": "add", "input": "", "output": "sum"}
    parts = prepared(tokenizer, TEMPLATES["alpaca"], "instruct", record)
    assert Dialogue(TEMPLATES["alpaca"], "instruct", tokenizer, END, None, None).ask("add") == parts[0]


def test_the_oldest_exchanges_make_room(tokenizer: Tokenizer) -> None:
    """An exchange of a letter and no answer has 22 tokens, of which the last two are its end; the system's turn 11."""
    dialogue = Dialogue(TEMPLATES["chatml"], "chat", tokenizer, END, 65, "s")
    ending = Ending(dialogue.stop_ids, [], tokenizer)
    lengths = []
    for line in "abcd":
        prompt = dialogue.ask(line)
        lengths.append(len(prompt))
        dialogue.answered([CLOSE], ending)
    assert lengths == [31, 53, 53, 53]
    head = dialogue.ask("e")
    assert head[:11] == prompt[:11]
    assert tokenizer.encode("d").ids[0] in head[11:31]
    with pytest.raises(UserError, match="a prompt of 90 tokens leaves the model no room"):
        dialogue.ask("x" * 60)
    assert dialogue.ask("e") == head


PROMPTS = [[5, 17, 3, 90], [5, 17, 3, 90, 8, 8, 1], [5, 17, 3, 4], [44] * 20]


def read_on(reader: Noting, searched: bool) -> None:
    """Answer a prompt, then one that continues it, one that parts from it, and one that is new and long."""
    options = Options(max_new_tokens=4, num_beams=3 if searched else 1)
    first = generate(reader, [PROMPTS[0]], options)[0]
    generate(reader, [[*PROMPTS[0], *first, 9, 9]], options)
    for prompt in PROMPTS[1:]:
        generate(reader, [prompt], options)
    with torch.inference_mode():  # of two sequences the second goes on
        reader.begin([PROMPTS[0]])
        reader.go_on([0, 0], [7, 8])
        reader.begin([[*PROMPTS[0], 8, 9]])


def read_on_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> list[Tensor]:
    reader = Noting(DialogueReader(open_model(directory, overrides, Mesh.build(asked(overrides).layout)), 4))
    read_on(reader, searched=False)
    return [logits.clone() for logits in reader.logits]


@pytest.mark.parametrize(
    ("name", "overrides", "searched"),
    [(LLAMA, [], False), (GPT2, [], True), (GPT2, ["layout.tp=2", "layout.pp=2"], False)],
    ids=["greedy", "searched", "over ranks"],
)
def test_reading_on_gives_what_reading_anew_gives(
    ranks: RankPool, tmp_path: Path, name: str, overrides: list[str], searched: bool
) -> None:
    _, model = trained(tmp_path, name)
    plain = Noting(PlainReading(model))
    with torch.no_grad():
        read_on(plain, searched)
    found = Noting(DialogueReader(open_model(tmp_path, [], Mesh.alone()), 4))
    read_on(found, searched)
    by_ranks = ranks.run(4, read_on_by_rank, tmp_path, overrides) if overrides else []
    for logits in (found.logits, *by_ranks):
        assert len(logits) == len(plain.logits)
        assert max(float((a - b).abs().max()) for a, b in zip(logits, plain.logits, strict=True)) <= 1e-10


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, GPT2)
    reader = DialogueReader(open_model(tmp_path, [], Mesh.alone()), 4)
    read: list[int] = []
    plain = DialogueReader._read

    def counting(self: DialogueReader, new: Sequence[Sequence[int]]) -> Tensor:
        read.append(sum(len(tokens) for tokens in new))
        return plain(self, new)

    monkeypatch.setattr(DialogueReader, "_read", counting)
    first = generate(reader, [PROMPTS[0]], Options(max_new_tokens=4))[0]
    assert read == [4, 1, 1, 1]
    with torch.inference_mode():
        for prompt in ([*PROMPTS[0], *first, 9], PROMPTS[0], [*PROMPTS[0][:2], 6]):
            reader.begin([prompt])
    assert read[4:] == [2, 1, 1]
