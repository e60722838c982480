"""A dialogue as the tokens that a model reads: those that preparing its records would have given."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from megalm.data.records import Kind, Part
from megalm.data.render import encode_piece
from megalm.data.template import Piece, Template
from megalm.errors import UserError
from megalm.generation.ending import Ending


class Dialogue:
    """What was said so far.

    Args:
        template: how turns become text.
        kind: of the records that the model learned from; of ``instruct`` a question is an instruction.
        tokenizer: the model's own.
        end_id: the token that ends documents.
        room: tokens that a prompt may have; ``None`` for any number.
        system: what the system says before all, if anything.
    """

    def __init__(
        self, template: Template, kind: Kind, tokenizer: Tokenizer, end_id: int, room: int | None, system: str | None
    ) -> None:
        """See the class."""
        self._template, self._kind, self._tokenizer, self._end_id = template, kind, tokenizer, end_id
        self._room = room
        self._system = [] if system is None else self._encoded(template.turn("system", system))
        self._opening = self._encoded(template.opening())
        closing = [piece for piece in template.turn("assistant", "") if piece.part is Part.ASKED and piece.literal]
        self._closing = self._encoded(closing)
        special = tokenizer.get_added_tokens_decoder()
        self.stop_ids = [end_id, *(token for token in self._closing[:1] if token in special)]
        """The tokens that end an answer: the document's end, and what the template closes an answer with."""
        spelled = bool(closing) and bool(closing[0].text) and self._closing[0] not in special
        self.stop_texts = [closing[0].text] if spelled else []
        """What ends an answer where the template closes it with ordinary text."""
        self._exchanges: list[list[int]] = []
        self._asked: list[int] = []

    def ask(self, line: str) -> list[int]:
        """Return the prompt of an answer to ``line``; the oldest exchanges are forgotten where there is no room.

        Raises:
            UserError: there is none for the line alone; what was said before is kept.
        """
        self._asked = [*self._encoded(self._question(line)), *self._opening]
        for first in range(len(self._exchanges) + 1):
            kept = self._exchanges[first:]
            prompt = [*self._system, *(token for exchange in kept for token in exchange), *self._asked]
            if self._room is None or len(prompt) <= self._room:
                self._exchanges = kept
                return prompt
        raise UserError(
            f"a prompt of {len(prompt)} tokens leaves the model no room for an answer, even without what was said "
            f"before ({self._room} fit); say less, or lower --max-new-tokens."
        )

    def answered(self, tokens: Sequence[int], ending: Ending) -> None:
        """Take the answer to what was asked last.

        Args:
            tokens: of the answer, with the one that ended it.
            ending: by which it ended.
        """
        said = [*tokens[:-1]] if tokens[-1] in self.stop_ids else [*tokens]
        text = self._tokenizer.decode(said, skip_special_tokens=False)
        if (cut := ending.cut(text)) != text:
            said = self._encoded([Piece(Part.ASKED, cut, literal=False)])
        self._exchanges.append([*self._asked, *said, *self._closing])

    def reset(self) -> None:
        """Forget all that was said, but for the system's turn."""
        self._exchanges = []

    def _question(self, line: str) -> Iterable[Piece]:
        if self._kind == "instruct":
            return self._template.prompt_of({"instruction": line, "input": ""})
        return self._template.turn("user", line)

    def _encoded(self, pieces: Iterable[Piece]) -> list[int]:
        return [token for piece in pieces for token in encode_piece(self._tokenizer, piece, self._end_id).tolist()]
