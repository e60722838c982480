"""Oracle: texts laid out by hand, in a tokenizer that has a token a byte, so that characters come in parts."""

import pytest
from tokenizers import Tokenizer, models

from megalm.errors import UserError
from megalm.generation.ending import Ending, Stream
from tests.generation.trained import bytes_tokenizer

END = 256


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bytes_tokenizer()


def shown(tokenizer: Tokenizer, ending: Ending, tokens: list[int]) -> list[str]:
    """Return what is shown after each token, and at the end."""
    found = [""]
    stream = Stream(tokenizer, ending, lambda text: found.append(found.pop() + text))
    for token in tokens:
        found.append("")
        stream.add([token])
    found.append("")
    stream.end()
    return found[1:]


def test_a_token_ends_a_continuation_and_is_not_shown(tokenizer: Tokenizer) -> None:
    ending = Ending([END], [], tokenizer)
    tokens = [*tokenizer.encode("ab").ids, END]
    assert [ending(tokens[:count]) for count in (1, 2, 3)] == [False, False, True]
    assert shown(tokenizer, ending, tokens) == ["a", "b", "", ""]


def test_a_text_ends_a_continuation_and_is_not_shown(tokenizer: Tokenizer) -> None:
    ending = Ending([], ["\n\n", "end!"], tokenizer)
    tokens = tokenizer.encode("an end\nen\n\n").ids
    assert [ending(tokens[:count]) for count in range(1, len(tokens) + 1)] == [False] * 10 + [True]
    assert shown(tokenizer, ending, tokens) == ["a", "n", " ", "", "", "", "end", "\n", "", "en", "", ""]


def test_a_beginning_that_came_to_nothing_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    assert shown(tokenizer, Ending([], ["end!"], tokenizer), tokenizer.encode("xen").ids) == ["x", "", "", "en"]


def test_part_of_a_character_waits_for_the_rest(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("é€x").ids
    assert len(tokens) == 6
    assert shown(tokenizer, Ending([], [], tokenizer), tokens) == ["", "é", "", "", "€", "x", ""]


def test_a_stop_text_is_found_at_the_end_of_a_long_continuation(tokenizer: Tokenizer) -> None:
    ending = Ending([], ["€€"], tokenizer)
    tokens = tokenizer.encode("€" + "x" * 500 + "€€").ids
    assert not ending(tokens[:-1])
    assert ending(tokens)


def test_without_a_tokenizer_only_tokens_end() -> None:
    assert Ending([7], [], None)([1, 7])
    with pytest.raises(UserError, match="no tokenizer is known"):
        Ending([], ["x"], None)
    with pytest.raises(UserError, match="--stop is empty"):
        Ending([], [""], Tokenizer(models.BPE()))
