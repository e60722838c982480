"""How the vocabulary and its logits are cut. No torch."""

from megalm.param_spec import even_ranges

CUT_MULTIPLE = 64
"""Large vocabularies are cut at multiples of this, which matrix units like."""


CHUNK_TOKENS = 1024
"""Logits of this many tokens live at a time: fewer make the products slower, more take memory and gain nothing."""


def vocab_ranges(vocab_size: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Cut the vocabulary over ``parts`` ranks as evenly as the multiple allows. Nothing is padded."""
    return even_ranges(vocab_size, parts, CUT_MULTIPLE if vocab_size >= 64 * CUT_MULTIPLE * parts else 1)
