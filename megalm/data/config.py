"""The ``data`` section of the run file."""

from pathlib import Path

from pydantic import Field

from megalm.errors import UserError
from megalm.section import Section


class Corpus(Section):
    """One corpus of the mixture that a run learns from."""

    path: str = Field(
        description="A directory made by `megalm data prepare`, the prefix of a .bin/.idx pair (no extension), or "
        "package.module:name for a source of your own."
    )
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Share of the samples drawn from this corpus, relative to the other weights: with 3 and 1, every "
        "fourth sample is from the second, whatever their sizes; a small corpus is simply repeated more often.",
    )


class DataConfig(Section):
    """What a run learns from and is judged on."""

    train: list[Corpus] = Field(
        default_factory=list, description="The corpora to learn from, mixed by weight; at least one."
    )
    validation: list[str] | None = Field(
        None,
        description="What evaluation reads: paths as in train. null takes the held-out split of every directory in "
        "train; a bare .bin/.idx prefix has none, so name one here if you want evaluation.",
    )
    tokenizer: str | None = Field(
        None,
        description="A tokenizer.json. null takes the one in the first data directory; naming another than the data "
        "was made with is refused, because the token ids would mean something else.",
    )
    reset_attention: bool = Field(
        False,
        description="true keeps a token from seeing the documents packed before its own in the sample, and restarts "
        "positions at each document; false lets attention cross document boundaries, which is faster.",
    )

    def check(self, key: str) -> None:
        """Refuse a section without a corpus.

        Args:
            key: of the section, for the message.

        Raises:
            UserError: there is none.
        """
        if "train" not in self.model_fields_set:
            missing = f"{key}.train" if self.model_fields_set else key
            raise UserError(f"{missing} is missing and has no default; add it.")
        if not self.train:
            raise UserError(f"{key}.train must be a list of 1 or more, not [].")

    def tokenizer_path(self) -> Path | None:
        """Return the tokenizer of this data: the one named, else the first that lies in a data directory, else None."""
        if self.tokenizer is not None:
            return Path(self.tokenizer)
        beside = (Path(corpus.path) / "tokenizer.json" for corpus in self.train)
        return next((path for path in beside if path.is_file()), None)
