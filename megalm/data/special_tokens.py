"""The tokens of a tokenizer that stand for no text: found by what they are for, under the names that are in use.

Which token separates two sentences, stands for a hidden one or fills a sample up depends on the tokenizer; an objective
asks for the role.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tokenizers import Tokenizer

from megalm.data.bpe import END_OF_DOCUMENT, KNOWN_ENDS, open_tokenizer
from megalm.errors import UserError

Role = Literal["mask", "cls", "sep", "pad", "bos", "eos"]

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[CLS]", END_OF_DOCUMENT),
    "eos": KNOWN_ENDS,
}
"""How each role is spelled, the first that a tokenizer has being the one."""

NAMED_SETS: Mapping[str, tuple[str, ...]] = {
    "bert": ("[PAD]", "[CLS]", "[SEP]", "[MASK]"),
    "bart": ("<s>", "<pad>", "</s>", "<mask>"),
    "t5": ("<pad>", *(f"<extra_id_{number}>" for number in range(100))),
    "chat": ("<|im_start|>", "<|im_end|>"),
}
"""What a learned tokenizer is given for a family; RoBERTa's are those of ``bart``."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of one tokenizer.

    Args:
        tokenizer: what has them.
        name: of the tokenizer, for messages.
    """

    tokenizer: Tokenizer
    name: str

    @classmethod
    def of(cls, path: Path | None) -> "SpecialTokens":
        """Return those of a ``tokenizer.json``; ``None`` is what ``DataConfig.tokenizer_path`` says where none is.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        if path is None:
            raise UserError(
                "No tokenizer says which ids are special tokens; name a tokenizer.json with data.tokenizer, or a "
                "directory of `megalm data prepare` in data.train."
            )
        return cls(open_tokenizer(path), str(path))

    def find(self, role: Role) -> int | None:
        """Return the id of the token of a role, or ``None``."""
        found = (self.tokenizer.token_to_id(spelling) for spelling in SPELLINGS[role])
        return next((token_id for token_id in found if token_id is not None), None)

    def id_of(self, role: Role) -> int:
        """Return the id of the token of a role.

        Raises:
            UserError: the tokenizer has none.
        """
        if (token_id := self.find(role)) is None:
            raise UserError(
                f"{self.name} has no {role} token (none of {', '.join(SPELLINGS[role])}); prepare the data again with "
                f"--special-tokens {_set_with(role)}, or use a tokenizer that has one."
            )
        return token_id

    def sentinels(self, count: int = 1) -> list[int]:
        """Return the ids of the tokens that stand for spans, ``<extra_id_0>`` first, up to the first that is missing.

        Args:
            count: how many there must be at least.

        Raises:
            UserError: there are fewer.
        """
        found: list[int] = []
        while (token_id := self.tokenizer.token_to_id(f"<extra_id_{len(found)}>")) is not None:
            found.append(token_id)
        if len(found) < count:
            raise UserError(
                f"{self.name} has {len(found)} sentinels (<extra_id_0>, ...) where {count} are needed; prepare the "
                "data again with --special-tokens t5, or use a tokenizer that has them."
            )
        return found

    def ids(self) -> frozenset[int]:
        """Return the ids of all tokens that stand for no text: those marked as special, and those of a role."""
        marked = {token_id for token_id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        roles = {token_id for role in get_args(Role) if (token_id := self.find(role)) is not None}
        return frozenset(marked | roles | set(self.sentinels(0)))


def parse_special_tokens(text: str | None) -> tuple[str, ...]:
    """Return the tokens that ``--special-tokens`` names: named sets and tokens, between commas.

    Raises:
        UserError: an empty name, one that is given twice, or the end-of-document token, which there always is.
    """
    tokens: list[str] = []
    for word in [] if text is None else text.split(","):
        name = word.strip()
        for token in NAMED_SETS.get(name, (name,)):
            if not token or token == END_OF_DOCUMENT:
                what = f"{token} is there already" if token else "a name is empty"
                raise UserError(
                    f"--special-tokens {text}: {what}; give {', '.join(NAMED_SETS)} or tokens between commas."
                )
            if token in tokens and name not in NAMED_SETS:
                raise UserError(f"--special-tokens {text}: {token} is given twice; name it once.")
            if token not in tokens:
                tokens.append(token)
    return tuple(tokens)


def _set_with(role: Role) -> str:
    return next((name for name, tokens in NAMED_SETS.items() if set(tokens) & set(SPELLINGS[role])), "TOKEN")
