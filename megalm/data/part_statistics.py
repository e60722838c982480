"""How long the prompts and the responses of records are, and how many records each label has."""

from collections.abc import Sequence

import numpy as np

from megalm.data.indexed import IndexedTokens
from megalm.data.records import Part

Statistics = dict[str, dict[str, float]]
"""By what is counted, numbers by name."""

PROMPT, RESPONSE, LABELS = "prompt tokens", "response tokens", "labels"


def part_statistics(corpus: IndexedTokens, labels: Sequence[str] = ()) -> Statistics:
    """Return the statistics of a split: tokens of all that is given, and of all that is asked, of a record.

    Args:
        corpus: the split.
        labels: the names of its labels, where it has any; their counts then stand in place of responses.
    """
    modes, lengths = corpus.modes(), corpus.sequence_lengths()
    document_of = np.repeat(np.arange(corpus.num_documents), np.diff(corpus.boundaries()))
    found: Statistics = {}
    for name, part in ((PROMPT, Part.GIVEN), (RESPONSE, Part.ASKED)):
        wanted = modes == part
        if wanted.any() or (part is Part.GIVEN and len(modes)):
            tokens_d = np.bincount(document_of[wanted], lengths[wanted], corpus.num_documents)
            found[name] = {
                "all": float(tokens_d.sum()),
                "mean": float(tokens_d.mean()),
                "median": float(np.median(tokens_d)),
                "95%": float(np.percentile(tokens_d, 95)),
                "longest": float(tokens_d.max()),
            }
    if labels:
        numbers = [int(tokens[0]) for index in range(corpus.num_documents) for _, tokens in corpus.parts(index)[-1:]]
        found[LABELS] = dict(zip(labels, np.bincount(numbers, minlength=len(labels)).astype(float), strict=True))
    return found
