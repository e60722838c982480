"""What ends a document in the data of a run, and so a continuation of one."""

from pathlib import Path

from tokenizers import Tokenizer

from megalm.data.bpe import KNOWN_ENDS
from megalm.data.meta import META, read_meta
from megalm.run_config import RunConfig


def end_ids(config: RunConfig, tokenizer: Tokenizer | None) -> list[int]:
    """Return the token that ends a document in the run's data, else in the tokenizer, if it is known."""
    for corpus in (corpus for data in config.sources for corpus in data.train):
        if (Path(corpus.path) / META).is_file():
            return [read_meta(Path(corpus.path)).eos_id]
    found = [] if tokenizer is None else [tokenizer.token_to_id(name) for name in KNOWN_ENDS]
    return [token for token in found if token is not None][:1]
