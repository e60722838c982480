"""What ends a document in the data of a run, and so a continuation of one."""

from tokenizers import Tokenizer

from megalm.data.bpe import KNOWN_ENDS
from megalm.data.meta import metas_of
from megalm.run_config import RunConfig


def end_ids(config: RunConfig, tokenizer: Tokenizer | None) -> list[int]:
    """Return the token that ends a document in the run's data, else in the tokenizer, if it is known."""
    meta = next(metas_of(config.corpora), None)
    if meta is not None:
        return [meta.eos_id]
    found = [] if tokenizer is None else [tokenizer.token_to_id(name) for name in KNOWN_ENDS]
    return [token for token in found if token is not None][:1]
