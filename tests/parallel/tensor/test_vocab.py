"""Oracle: ranges by hand."""

import pytest

from megalm.parallel.tensor.vocab import vocab_ranges


def test_small_vocabularies_are_cut_evenly() -> None:
    assert vocab_ranges(1009, 2) == ((0, 505), (505, 1009))
    assert vocab_ranges(1009, 3) == ((0, 337), (337, 673), (673, 1009))
    assert vocab_ranges(50257, 16)[1] == (3142, 6283)


@pytest.mark.parametrize("parts", range(1, 9))
def test_large_vocabularies_are_cut_at_multiples_of_64_and_not_padded(parts: int) -> None:
    ranges = vocab_ranges(50257, parts)
    assert (ranges[0][0], ranges[-1][1]) == (0, 50257)
    assert all(start % 64 == 0 for start, _ in ranges)
    lengths = [stop - start for start, stop in ranges]
    assert max(lengths) - min(lengths) < 2 * 64
