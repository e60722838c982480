"""What ``megalm eval`` reads: a text file, or data that were prepared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from megalm.data.bpe import encode
from megalm.data.indexed import IndexedTokens, pair
from megalm.data.meta import META, TOKENIZER, VALIDATION, read_meta, tokenizer_digest
from megalm.errors import UserError


@dataclass(frozen=True)
class Text:
    """Tokens in order.

    Args:
        num_tokens: how many.
        tokens: returns those from one position to before another.
        num_bytes: of a text file; ``None`` where the text is not at hand.
    """

    num_tokens: int
    tokens: Callable[[int, int], Sequence[int]]
    num_bytes: int | None = None


def open_text(path: Path, tokenizer: Tokenizer | None, tokenizer_file: Path | None, end_ids: Sequence[int]) -> Text:
    """Open a text file, a directory made by ``megalm data prepare``, or a ``.bin/.idx`` prefix.

    Of a directory it is the held-out split. A text file is one document; the token that ends documents, where one is
    known, stands before it, so that its first token is predicted too.

    Args:
        path: which.
        tokenizer: for text.
        tokenizer_file: where that lies, to compare with what a directory was made with.
        end_ids: the token that ends documents, or nothing.

    Raises:
        UserError: nothing of the kind is there, it is too short, or it was made with another tokenizer.
    """
    if (path / META).is_file():
        made_with = read_meta(path).tokenizer_digest
        if tokenizer_file is not None and tokenizer_digest(tokenizer_file) != made_with:
            raise UserError(
                f"--data {path} was made with another tokenizer than {tokenizer_file}; prepare it again with "
                f"--tokenizer {tokenizer_file}, or name its text files."
            )
        return _indexed(path / VALIDATION, f"the held-out split of {path}")
    if any(file.is_file() for file in pair(path)):
        return _indexed(path, str(path))
    if not path.is_file():
        raise UserError(
            f"--data {path} is not there; name a text file, a directory made by megalm data prepare, or a .bin/.idx "
            "prefix."
        )
    if tokenizer is None:
        raise UserError(f"--data {path} is text, and no tokenizer is known; name its {TOKENIZER} with --tokenizer.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {path} cannot be read as text ({error}); give a text file in UTF-8.") from error
    ids = [*end_ids, *encode(tokenizer, text, 0)[:-1].tolist()]
    return _checked(Text(len(ids), lambda first, end: ids[first:end], len(text.encode())), str(path))


def _indexed(prefix: Path, name: str) -> Text:
    found = IndexedTokens(prefix)
    return _checked(Text(found.num_tokens, lambda first, end: found.tokens(first, end - first).tolist()), name)


def _checked(text: Text, name: str) -> Text:
    if text.num_tokens < 2:
        raise UserError(f"--data: {name} has {text.num_tokens} tokens, and nothing to predict; give a longer text.")
    return text
