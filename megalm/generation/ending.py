"""When a continuation ends, and what of its text is shown."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

from megalm.errors import UserError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer says for bytes that are not a whole character yet."""
MARGIN = 8
"""More tokens than the stop text has bytes, so that what a decoder does at its first token is not seen."""


class Ending:
    """The tokens and the texts that end a continuation.

    Args:
        stop_ids: tokens.
        stop_texts: texts; they and what follows them are not shown.
        tokenizer: makes text of tokens; without one there are no stop texts.

    Raises:
        UserError: a stop text is empty, or there is no tokenizer to find it with.
    """

    def __init__(self, stop_ids: Sequence[int], stop_texts: Sequence[str], tokenizer: Tokenizer | None) -> None:
        """See the class."""
        if stop_texts and tokenizer is None:
            raise UserError("--stop is found in text, and no tokenizer is known; name one with --tokenizer.")
        if not all(stop_texts):
            raise UserError("--stop is empty, which every text contains; give the text that ends a continuation.")
        self._stop_ids, self._stop_texts, self._tokenizer = frozenset(stop_ids), tuple(stop_texts), tokenizer
        self._tail = max((len(text.encode()) for text in stop_texts), default=0) + MARGIN

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Tell whether a continuation ends with its last token."""
        if tokens[-1] in self._stop_ids:
            return True
        if self._tokenizer is None or not self._stop_texts:
            return False
        text = self._tokenizer.decode(list(tokens[-self._tail :]))
        return any(stop in text for stop in self._stop_texts)

    def cut(self, text: str) -> str:
        """Return the text up to the first stop text in it."""
        return text[: min((at for stop in self._stop_texts if (at := text.find(stop)) >= 0), default=len(text))]

    def shown(self, text: str) -> str:
        """Return what can be shown of a text that goes on: no part of a character, and no beginning of a stop text."""
        cut = self.cut(text)
        if cut != text:
            return cut
        text = text.rstrip(UNFINISHED)
        held = (n for stop in self._stop_texts for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
        return text[: len(text) - max(held, default=0)]


class Stream:
    """The text of one continuation, shown as it grows.

    Args:
        tokenizer: makes the text.
        ending: what of it is shown.
        show: is given each new part.
    """

    def __init__(self, tokenizer: Tokenizer, ending: Ending, show: Callable[[str], None]) -> None:
        """See the class."""
        self._tokenizer, self._ending, self._show = tokenizer, ending, show
        self._tokens: list[int] = []
        self._shown = 0

    def add(self, tokens: Sequence[int]) -> None:
        """Take new tokens and show what is certain."""
        self._tokens += tokens
        self._give(self._ending.shown(self._tokenizer.decode(self._tokens)))

    def end(self) -> None:
        """Show the rest."""
        self._give(self._ending.cut(self._tokenizer.decode(self._tokens)))

    def _give(self, text: str) -> None:
        if len(text) > self._shown:
            self._show(text[self._shown :])
            self._shown = len(text)
