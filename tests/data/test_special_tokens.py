"""Oracle: tokenizers with known ids; the special tokens that BERT's, RoBERTa's, T5's and Llama's tokenizers have."""

import re
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models

from megalm.data.bpe import encode, open_tokenizer, train_bpe
from megalm.data.prepare import prepare
from megalm.data.special_tokens import NAMED_SETS, Role, SpecialTokens, parse_special_tokens
from megalm.errors import UserError
from tests.data.corpus import files_of, prose, write_lines

TEXT = Path(re.__file__).read_text(encoding="utf-8")


def having(*tokens: str) -> SpecialTokens:
    return SpecialTokens(Tokenizer(models.WordLevel({token: 10 + n for n, token in enumerate(tokens)}, "?")), "it")


@pytest.mark.parametrize(
    ("tokens", "roles"),
    [
        (("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), {"pad": 10, "cls": 12, "sep": 13, "mask": 14, "eos": 13}),
        (("<s>", "<pad>", "</s>", "<mask>"), {"cls": 10, "bos": 10, "pad": 11, "sep": 12, "eos": 12, "mask": 13}),
        (("<pad>", "</s>"), {"pad": 10, "eos": 11}),
        (("<|begin_of_text|>", "<|end_of_text|>"), {"bos": 10, "eos": 11}),
    ],
)
def test_roles_of_known_tokenizers(tokens: tuple[str, ...], roles: dict[Role, int]) -> None:
    special = having("word", *tokens)
    for role, token_id in roles.items():
        assert special.id_of(role) == token_id + 1


def test_a_missing_role_is_told_with_its_remedy() -> None:
    with pytest.raises(UserError, match=r"it has no mask token \(none of \[MASK\], .*--special-tokens bert, or use"):
        having("<pad>").id_of("mask")
    with pytest.raises(UserError, match=r"it has 2 sentinels .* where 3 are needed; .*--special-tokens t5"):
        having("<extra_id_0>", "<extra_id_1>", "<extra_id_3>").sentinels(3)
    with pytest.raises(UserError, match=r"No tokenizer says .* data\.tokenizer"):
        SpecialTokens.of(None)


def test_all_ids_without_text() -> None:
    special = having("word", "[SEP]", "<extra_id_0>", "other")
    special.tokenizer.add_special_tokens([AddedToken("other", special=True)])
    special.tokenizer.add_tokens(["plain"])
    assert special.ids() == {11, 12, 13}


@pytest.mark.parametrize("name", NAMED_SETS)
def test_a_learned_tokenizer_gets_them_after_the_end_of_document(name: str, tmp_path: Path) -> None:
    tokens = parse_special_tokens(name)
    train_bpe([TEXT], 450, tokens).save(str(tmp_path / "tokenizer.json"))
    special = SpecialTokens.of(tmp_path / "tokenizer.json")
    assert [special.tokenizer.token_to_id(token) for token in tokens] == list(range(1, 1 + len(tokens)))
    assert special.id_of("eos") == 0
    assert special.ids() == set(range(1 + len(tokens)))
    assert special.tokenizer.get_vocab_size() == 450
    if name == "t5":
        assert special.sentinels(100) == list(range(2, 102))
    text = f"a{tokens[-1]}b"
    ids = encode(open_tokenizer(tmp_path / "tokenizer.json"), text, 0)
    assert min(ids[:-1]) > len(tokens)
    assert special.tokenizer.decode(ids[:-1].tolist()) == text


def test_words_between_commas() -> None:
    assert parse_special_tokens(None) == ()
    assert parse_special_tokens("<a>, bert,<b>") == ("<a>", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "<b>")
    assert parse_special_tokens("t5,bart") == (*NAMED_SETS["t5"], "<s>", "</s>", "<mask>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,,b", "a name is empty"),
        ("", "a name is empty"),
        ("a,b,a", "a is given twice"),
        ("<|endoftext|>", "is there already"),
    ],
)
def test_words_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_special_tokens(text)


def test_preparation_with_them(tmp_path: Path) -> None:
    source = str(write_lines(tmp_path / "x.jsonl", [prose(seed) for seed in range(20)]))
    prepare([source], tmp_path / "plain", 300)
    prepare([source], tmp_path / "bert", 300, special_tokens="bert")
    assert SpecialTokens.of(tmp_path / "bert" / "tokenizer.json").id_of("mask") == 4
    with pytest.raises(UserError, match="made otherwise"):
        prepare([source], tmp_path / "bert", 300)
    with pytest.raises(UserError, match=r"has no token \[PAD\], which --special-tokens names"):
        prepare([source], tmp_path / "b", tokenizer=tmp_path / "plain" / "tokenizer.json", special_tokens="bert")
    given = tmp_path / "bert" / "tokenizer.json"
    prepare([source], tmp_path / "c", tokenizer=given, special_tokens="bert")
    assert files_of(tmp_path / "c") == files_of(tmp_path / "bert")
    with pytest.raises(UserError, match=r"--vocab-size 260 is too small: .* and 4 special tokens, 261 in all"):
        prepare([source], tmp_path / "d", 260, special_tokens="bert")
