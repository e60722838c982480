"""Oracle: the tokenizers library on whole texts, and texts decoded back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from megalm.data.bpe import encode, end_of_document, open_tokenizer, pieces, train_bpe, vocabulary_size
from megalm.data.meta import tokenizer_digest
from megalm.errors import UserError

TEXT = Path(re.__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe([TEXT], 500).save(str(path))
    return path


def test_size_end_and_round_trip(path: Path) -> None:
    tokenizer = open_tokenizer(path)
    assert vocabulary_size(tokenizer) == 500
    assert end_of_document(tokenizer, None) == ("<|endoftext|>", 0)
    text = TEXT + "\u00e9\u4e2d\U0001f600\x00\r\n  \t"
    ids = encode(tokenizer, text, 0)
    assert ids[-1] == 0
    assert 0 not in ids[:-1]
    assert tokenizer.decode(ids[:-1].tolist()) == text


def test_a_text_cannot_forge_the_end_of_a_document(path: Path) -> None:
    tokenizer = open_tokenizer(path)
    ids = encode(tokenizer, "before<|endoftext|>after", 0)
    assert np.flatnonzero(ids == 0).tolist() == [len(ids) - 1]
    assert tokenizer.decode(ids[:-1].tolist()) == "before<|endoftext|>after"


@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_cutting_does_not_change_the_tokens(path: Path, limit: int) -> None:
    tokenizer = open_tokenizer(path)
    text = TEXT + "\n\n  two\n\n\nlines  \n x\ty 1 2\r\n3 'll it's"
    cut = list(pieces(text, limit))
    assert len(cut) > 10
    assert "".join(cut) == text
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    assert [token for piece in cut for token in tokenizer.encode(piece, add_special_tokens=False).ids] == whole


def test_learning_is_repeatable_in_another_process(path: Path, tmp_path: Path) -> None:
    code = (
        "import re, sys, pathlib; from megalm.data.bpe import train_bpe\n"
        "train_bpe([pathlib.Path(re.__file__).read_text(encoding='utf-8')], 500).save(sys.argv[1])"
    )
    other = tmp_path / "tokenizer.json"
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, env={"RAYON_NUM_THREADS": "1"}, cwd=Path.cwd())
    assert other.read_bytes() == path.read_bytes()


def test_truncation_padding_and_markers_of_a_given_tokenizer_do_not_apply(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    given = tmp_path / "given.json"
    given.write_text(json.dumps(content))
    assert len(encode(open_tokenizer(given), TEXT, 0)) == len(encode(open_tokenizer(path), TEXT, 0))
    assert tokenizer_digest(given) == tokenizer_digest(path)


def test_the_digest_tells_tokenizers_apart(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    train_bpe([TEXT], 499).save(str(other))
    assert tokenizer_digest(other) != tokenizer_digest(path)


def test_ends_of_other_families(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 7, "</s>": 3, "stop": 5}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert end_of_document(tokenizer, None) == ("</s>", 3)
    assert end_of_document(tokenizer, "stop") == ("stop", 5)
    assert vocabulary_size(tokenizer) == 8
    with pytest.raises(UserError, match=r"no token 'halt'; name the token .* with --end-of-document"):
        end_of_document(tokenizer, "halt")
    with pytest.raises(UserError, match=r"none of <\|endoftext\|>"):
        end_of_document(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), None)


def test_bad_tokenizer_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json is not there"):
        open_tokenizer(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text('{"model": 5}')
    with pytest.raises(UserError, match=r"bad\.json is not a tokenizer\.json"):
        open_tokenizer(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match=r"list\.json cannot be read"):
        tokenizer_digest(tmp_path / "list.json")
