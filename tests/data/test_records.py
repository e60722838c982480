"""Oracle: records laid by hand, and the files decoded back to their parts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from megalm.cli.data import app
from megalm.data.bpe import open_tokenizer
from megalm.data.corpora import Reading, open_corpus
from megalm.data.indexed import IndexedTokens
from megalm.data.meta import read_meta
from megalm.data.prepare import prepare
from megalm.data.records import Kind, Part
from megalm.errors import UserError
from tests.data.corpus import files_of, prose

LINES: dict[Kind, list[dict[str, Any]]] = {
    "instruct": [
        {"instruction": f"Say {n}. {prose(n, 9)}", "input": "to me" if n % 2 else "", "output": f"{n} {prose(n, 5)}"}
        for n in range(12)
    ],
    "pairs": [{"source": f"from {prose(n, 9)}", "target": f"to {prose(n + 99, 5)}", "other": n} for n in range(12)],
    "labelled": [{"text": prose(n, 20), "label": ("b", "a", 7)[n % 3]} for n in range(12)],
    "chat": [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": prose(n, 8)},
                {"role": "assistant", "content": prose(n + 50, 8)},
                {"role": "user", "content": "and <|im_end|>?"},
                {"role": "assistant", "content": prose(n + 90, 3)},
                {"role": "user", "content": "thanks, which nobody answers"},
            ]
        }
        for n in range(12)
    ],
}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def parts_of(directory: Path, split: str = "train") -> list[list[tuple[int, list[int]]]]:
    corpus = IndexedTokens(directory / split)
    return [[(mode, t.tolist()) for mode, t in corpus.parts(index)] for index in range(corpus.num_documents)]


def texts_of(directory: Path) -> list[list[tuple[int, str]]]:
    """Return the parts of all training records as text; the end of the document is $."""
    tokenizer = open_tokenizer(directory / "tokenizer.json")

    def text(tokens: list[int]) -> str:
        return tokenizer.decode([t for t in tokens if t], skip_special_tokens=False) + "$" * tokens.count(0)

    return [[(mode, text(tokens)) for mode, tokens in record] for record in parts_of(directory)]


def test_instructions(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", LINES["instruct"])
    (tmp_path / "t.toml").write_text('user = "Q {content} A"\nassistant = "{content}"\n')
    report = prepare([str(source)], tmp_path / "out", 300, records="instruct", template=str(tmp_path / "t.toml"))
    expected = [
        [
            (0, f"Q {line['instruction']}" + (f"\n\n{line['input']}" if line["input"] else "") + " A"),
            (1, f"{line['output']}$"),
        ]
        for line in LINES["instruct"]
    ]
    found = texts_of(tmp_path / "out")
    assert found == [parts for parts in expected if parts in found]
    assert len(found) == report.train_documents == 12 - report.validation_documents
    counts = [sum(len(tokens) for mode, tokens in record if mode == 1) for record in parts_of(tmp_path / "out")]
    meta = read_meta(tmp_path / "out").records
    assert meta is not None
    assert (meta.kind, meta.response_tokens) == ("instruct", sum(counts))
    assert meta.prompt_tokens + meta.response_tokens == report.train_tokens
    assert report.parts["response tokens"] == pytest.approx(
        {
            "all": sum(counts),
            "mean": np.mean(counts),
            "median": np.median(counts),
            "95%": np.percentile(counts, 95),
            "longest": max(counts),
        }
    )


def test_chat(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", LINES["chat"])
    prepare([str(source)], tmp_path / "out", 350, records="chat", special_tokens="chat", validation=0.0)
    for line, record in zip(LINES["chat"], texts_of(tmp_path / "out"), strict=True):
        said = [message["content"] for message in line["messages"]]
        start, end = "<|im_start|>", "<|im_end|>"
        assert record == [
            (
                0,
                f"{start}system\n{said[0]}{end}\n{start}user\n{said[1]}{end}\n{start}assistant\n",
            ),
            (1, f"{said[2]}{end}\n"),
            (0, f"{start}user\n{said[3]}{end}\n{start}assistant\n"),
            (1, f"{said[4]}{end}\n$"),
        ]
    for encoded in parts_of(tmp_path / "out"):
        tokens = [token for _, part in encoded for token in part]
        assert (tokens.count(1), tokens.count(2)) == (5, 5)  # those of the template; what a user types is text


def test_pairs(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", LINES["pairs"])
    prepare([str(source)], tmp_path / "out", 300, records="pairs", validation=0.0)
    expected = [[(0, line["source"]), (1, f"{line['target']}$")] for line in LINES["pairs"]]
    assert texts_of(tmp_path / "out") == expected


def test_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", LINES["labelled"])
    report = prepare([str(source)], tmp_path / "out", 300, records="labelled", validation=0.0)
    meta = read_meta(tmp_path / "out").records
    assert meta is not None
    assert meta.labels == ["7", "a", "b"]
    assert report.parts["labels"] == {"7": 4, "a": 4, "b": 4}
    for line, record in zip(LINES["labelled"], parts_of(tmp_path / "out"), strict=True):
        assert record[1] == (Part.LABEL, [meta.labels.index(str(line["label"]))])
        assert record[0][1][-1] == 0
    with pytest.raises(UserError, match=r"holds labelled records, .* objective\.name=classify"):
        open_corpus("data.train.0.path", str(tmp_path / "out"), "train", Reading(8, 300, 0), 0)


@pytest.mark.parametrize("kind", LINES)
def test_neither_workers_nor_shards_change_a_byte(kind: Kind, tmp_path: Path) -> None:
    source = str(write(tmp_path / "x.jsonl", LINES[kind]))
    prepare([source], tmp_path / "one", 300, records=kind, validation=0.2)
    prepare([source], tmp_path / "two", 300, records=kind, validation=0.2, shard_bytes=700)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    with pytest.raises(UserError, match="made otherwise"):
        prepare([source], tmp_path / "one", 300, validation=0.2, records="pairs" if kind != "pairs" else "chat")


def test_records_are_cleaned_by_their_words(tmp_path: Path) -> None:
    one = {**LINES["instruct"][0], "output": prose(7, 60)}
    lines = [
        one,
        {**one, "output": " \n"},
        {"instruction": "a", "output": "b"},
        one,
        {**one, "instruction": one["instruction"] + " really"},
        {**one, "instruction": "e\u0301t\u00e9 is a season that is warm", "output": "yes"},
        {**one, "output": "lone \ud800 surrogate"},
    ]
    source = write(tmp_path / "x.jsonl", lines)
    report = prepare([str(source)], tmp_path / "out", 300, records="instruct", template="ins", validation=0.0)
    dropped = {reason: count for reason, count in report.dropped.items() if count}
    assert dropped == {"empty": 1, "too_short": 1, "exact_duplicate": 1, "near_duplicate": 1, "not_utf8": 1}
    assert texts_of(tmp_path / "out")[1][0][1].startswith("[INS] \u00e9t\u00e9 is")


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("instruct", {"instruction": "x"}, 'line 2 has no "output" string'),
        ("instruct", ["x"], "line 2 is not an object"),
        ("pairs", {"source": "x", "target": 3}, 'line 2 has no "target" string'),
        ("labelled", {"text": "x", "label": True}, 'line 2 has no "label" string'),
        ("chat", {"messages": []}, 'line 2 has no "messages" list'),
        ("chat", {"messages": [{"role": "user"}]}, 'line 2 has a message without a "content" string'),
        ("chat", {"messages": [{"role": "bot", "content": "x"}]}, 'whose "role" is none of system, user, assistant'),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "line 2 has no message of the assistant"),
    ],
)
def test_lines_that_are_no_records(tmp_path: Path, kind: Kind, line: Any, message: str) -> None:
    source = write(tmp_path / "x.jsonl", [LINES[kind][0], line])
    with pytest.raises(UserError, match=message):
        prepare([str(source)], tmp_path / "out", 300, records=kind)


def test_options_that_cannot_be_meant(tmp_path: Path) -> None:
    source = str(write(tmp_path / "x.jsonl", LINES["pairs"]))
    with pytest.raises(UserError, match="--template ins has no effect without --records instruct or chat"):
        prepare([source], tmp_path / "out", 300, records="pairs", template="ins")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(UserError, match=r"x\.txt holds no records; --records pairs reads"):
        prepare([str(tmp_path / "x.txt")], tmp_path / "out", 300, records="pairs")


def test_the_command(tmp_path: Path) -> None:
    source = str(write(tmp_path / "x.jsonl", LINES["instruct"]))
    words = ["prepare", source, "--output", str(tmp_path / "out"), "--vocab-size", "300", "--workers", "1"]
    result = CliRunner().invoke(app, [*words, "--records", "instruct", "--template", "ins"])
    assert result.exit_code == 0, result.output
    assert "prompt tokens" in result.stdout
    assert "median" in result.stdout
