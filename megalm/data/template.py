"""Templates: how the turns of a conversation, or an instruction, become the text that a model reads.

What surrounds the content of a turn may spell special tokens, which become those tokens; content never does, so that no
text can forge a turn. Both are tokenized apart, so that a prompt has the same tokens whatever answer follows.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Self

from pydantic import Field, model_validator

from megalm.data.records import Part, Record
from megalm.errors import UserError, suggestion
from megalm.section import Section
from megalm.validation import validate

FIELDS: Mapping[str, tuple[str, ...]] = {
    "system": ("content",),
    "user": ("content",),
    "assistant": ("content", "end"),
    "instruction": ("instruction",),
    "instruction_with_input": ("instruction", "input"),
}
"""The fields in braces that each text of a template may have; the last one of ``assistant`` may be left out."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text of one turn.

    Attributes:
        part: what it is for.
        text: empty for the end-of-document token.
        literal: whether it is the template's own, in which special tokens count.
    """

    part: Part
    text: str
    literal: bool


class Template(Section):
    """How turns become text; ``{content}`` stands for what a turn says, ``{{`` and ``}}`` for braces."""

    system: str = Field("{content}\n\n", description="a turn of the system")
    user: str = Field(description="a turn of the user")
    assistant: str = Field(
        description="a turn of the assistant: what stands before {content} is given, the rest is asked; {end} is the "
        "end-of-document token, which the last turn has in any case"
    )
    instruction: str | None = Field(None, description="an {instruction} without an input; by default the user says it")
    instruction_with_input: str | None = Field(
        None, description="an {instruction} with its {input}; by default the user says both, a blank line between"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, fields in FIELDS.items():
            text = getattr(self, name)
            if text is None:
                continue
            found = [field for _, field in parsed(name, text) if field is not None]
            unknown = [field for field in found if field not in fields]
            if unknown:
                raise UserError(
                    f"template: {{{unknown[0]}}} is no field of {name}{suggestion(unknown[0], fields) or '.'} Use "
                    f"{', '.join('{' + field + '}' for field in fields)}; write {{{{ for a brace."
                )
            needed = [field for field in fields if field != "end"]
            if [field for field in found if field != "end"] != needed:
                raise UserError(f"template: {name} must have {{{'} and {'.join(needed)}}} once, in this order.")
        return self

    def prompt_of(self, record: Record) -> Sequence[Piece]:
        """Return what is given of a record of kind instruct, up to where its answer begins."""
        values = {"instruction": record["instruction"], "input": record["input"]}
        text = self.instruction_with_input if record["input"] else self.instruction
        if text is None:
            content = "\n\n".join(value for value in values.values() if value)
            return list(self.turn("user", content))
        return list(_filled("instruction", text, values))

    def turn(self, role: str, content: str) -> Iterator[Piece]:
        """Yield the pieces of one turn: all given, or of the assistant's what comes after its opening, asked."""
        part = Part.GIVEN
        for piece in _filled(role, getattr(self, role), {"content": content}):
            if role == "assistant" and not piece.literal:
                part = Part.ASKED
            yield Piece(part, piece.text, piece.literal)

    def opening(self) -> Sequence[Piece]:
        """Return how a turn of the assistant begins: all that is given of it, behind which it is asked."""
        return [piece for piece in self.turn("assistant", "") if piece.part is Part.GIVEN]

    def pieces(self, record: Record) -> Iterator[Piece]:
        """Yield the pieces of a record of kind instruct or chat."""
        if "messages" in record:
            for message in record["messages"]:
                yield from self.turn(message["role"], message["content"])
        else:
            yield from self.prompt_of(record)
            yield from self.turn("assistant", record["output"])


def parsed(name: str, text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the literal stretches of a text, each with the field behind it.

    Raises:
        UserError: a brace is open, or a field is more than a name.
    """
    try:
        for literal, field, form, conversion in Formatter().parse(text):
            if field is not None and (form or conversion or not field.isidentifier()):
                raise UserError(f"template: {name} has {{{field}}} in braces, no field; write {{{{ for a brace.")
            yield literal, field
    except ValueError as error:
        raise UserError(f"template: {name} has a brace that is not closed; write {{{{ or }}}} for a brace.") from error


def _filled(name: str, text: str, values: Mapping[str, str]) -> Iterator[Piece]:
    for literal, field in parsed(name, text):
        if literal:
            yield Piece(Part.GIVEN, literal, literal=True)
        if field == "end":
            yield Piece(Part.GIVEN, "", literal=True)
        elif field is not None:
            yield Piece(Part.GIVEN, values[field], literal=False)


_TASK = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request."
TEMPLATES: Mapping[str, Template] = {
    "alpaca": Template(
        user="### Instruction:\n{content}\n\n",
        assistant="### Response:\n{content}{end}",
        instruction=f"{_TASK}. {_WRITE}\n\n### Instruction:\n{{instruction}}\n\n",
        instruction_with_input=f"{_TASK}, paired with an input that provides further context. {_WRITE}\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n",
    ),
    "chatml": Template(
        system="<|im_start|>system\n{content}<|im_end|>\n",
        user="<|im_start|>user\n{content}<|im_end|>\n",
        assistant="<|im_start|>assistant\n{content}<|im_end|>\n",
    ),
    "ins": Template(user="[INS] {content} [INS]", assistant=" {content}{end}"),
}
"""By name; alpaca is the form of Taori et al., "Stanford Alpaca", 2023."""

DEFAULTS: Mapping[str, str] = {"instruct": "alpaca", "chat": "chatml"}
"""The template of a kind of records where none is named."""


def template_of(name: str) -> Template:
    """Return a named template, or that of a TOML file.

    Raises:
        UserError: there is neither, or the file is no template.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not Path(name).is_file():
        raise UserError(
            f"--template {name} is not there{suggestion(name, TEMPLATES) or '.'} Choose {', '.join(TEMPLATES)}, or "
            "name a TOML file with the texts user and assistant."
        )
    try:
        content = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as TOML ({error}); mend it.") from error
    unknown = [key for key in content if key not in FIELDS]
    if unknown:
        raise UserError(
            f"{name}: {unknown[0]} is no text of a template{suggestion(unknown[0], FIELDS) or '.'} There are "
            f"{', '.join(FIELDS)}."
        )
    try:
        return validate(Template, content)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
