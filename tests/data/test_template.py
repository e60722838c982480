"""Oracle: the texts that Alpaca's and ChatML's conventions give, laid out by hand."""

from pathlib import Path

import pytest

from megalm.data.records import Part, Record
from megalm.data.template import TEMPLATES, Template, template_of
from megalm.errors import UserError

INSTRUCT = {"instruction": "Add.", "input": "1 2", "output": "3"}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi {there}"},
        {"role": "assistant", "content": "Yo"},
    ]
}


def shown(template: Template, record: Record) -> str:
    """Return the text of a record, each change between what is given and asked marked by a bar, and the end by $."""
    text, part = "", Part.GIVEN
    for piece in template.pieces(record):
        text += ("|" if piece.part is not part else "") + (piece.text or "$")
        part = piece.part
    return text


def test_alpaca() -> None:
    above = "Below is an instruction that describes a task"
    below = "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n"
    assert shown(TEMPLATES["alpaca"], {**INSTRUCT, "input": ""}) == f"{above}. {below}### Response:\n|3$"
    told = ", paired with an input that provides further context. "
    assert shown(TEMPLATES["alpaca"], INSTRUCT) == f"{above}{told}{below}### Input:\n1 2\n\n### Response:\n|3$"
    assert shown(TEMPLATES["alpaca"], CHAT) == "Be brief.\n\n### Instruction:\nHi {there}\n\n### Response:\n|Yo$"


def test_chatml() -> None:
    assert shown(TEMPLATES["chatml"], CHAT) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {there}<|im_end|>\n"
        "<|im_start|>assistant\n|Yo<|im_end|>\n"
    )
    assert shown(TEMPLATES["chatml"], INSTRUCT) == (
        "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n|3<|im_end|>\n"
    )


def test_ins() -> None:
    twice = {"messages": [*CHAT["messages"][1:], {"role": "user", "content": "So?"}, *CHAT["messages"][2:]]}
    assert shown(TEMPLATES["ins"], twice) == "[INS] Hi {there} [INS] |Yo$|[INS] So? [INS] |Yo$"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_opening_is_what_comes_before_an_answer(name: str) -> None:
    template = TEMPLATES[name]
    opening = "".join(piece.text for piece in template.opening())
    given = "".join(piece.text for piece in template.prompt_of(INSTRUCT)) + opening
    assert shown(template, INSTRUCT).partition("|3")[0] == given


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('user = """\nQ: {content}\n"""\nassistant = "A: {content}{end}{{x}}"\n')
    template = template_of(str(path))
    assert shown(template, CHAT) == "Be brief.\n\nQ: Hi {there}\nA: |Yo${x}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('user="{conten}"\nassistant="{content}"', r"\{conten\} is no field of user; did you mean 'content'\?"),
        ('user="{content}"\nassistant="{content}{x}"', r"\{x\} is no field of assistant\. Use \{content\}, \{end\}"),
        ('user="{content"\nassistant="{content}"', "user has a brace that is not closed"),
        ('user="{content:5}"\nassistant="{content}"', r"user has \{content\} in braces, no field"),
        ('user="{content}"\nassistant="none"', r"assistant must have \{content\} once"),
        ('user="{content}{content}"\nassistant="{content}"', r"user must have \{content\} once"),
        ('user="{content}"', "assistant is missing"),
        ('usr="{content}"', r"usr is no text of a template; did you mean 'user'\?"),
        ("user=", "cannot be read as TOML"),
        (
            'user="{content}"\nassistant="{content}"\ninstruction_with_input="{instruction}"',
            r"instruction_with_input must have \{instruction\} and \{input\} once",
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        template_of(str(tmp_path / "own.toml"))
    with pytest.raises(UserError, match="--template alpacca is not there; did you mean 'alpaca'"):
        template_of("alpacca")
