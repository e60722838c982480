"""Oracle: the samples that the objectives make, measured."""

import numpy as np
import pytest

from megalm.objectives.config import SingleObjective
from megalm.objectives.denoising import Denoising
from megalm.objectives.draws import Draws
from megalm.objectives.pair_lengths import PairLengths, SpanSizes
from megalm.objectives.span_corruption import SpanCorruption
from tests.objectives.samples import numbered

LENGTH = 50


def lengths_of(**fields: object) -> PairLengths | None:
    return PairLengths.of(SingleObjective.model_validate({"name": "seq2seq", **fields}), LENGTH)


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.02, 3.0)])
def test_spans_are_as_long_of_all_samples(density: float, mean: float) -> None:
    rows = numbered(list(range(20)), LENGTH)
    corruption = SpanCorruption(SpanSizes.of(LENGTH, density, mean), np.arange(90_000, 90_050))
    sources, targets = corruption(rows, Draws(3, rows.samples_b))
    found = lengths_of(noise_density=density, mean_span_length=mean)
    assert found is not None
    assert {len(source) + 1 for source in sources} == {found.source}
    assert {len(target) + 1 for target in targets} == {found.target}


@pytest.mark.parametrize(
    "noise", [["infill"], ["mask"], ["delete"], ["rotate"], ["infill", "delete"]], ids=lambda noise: " ".join(noise)
)
def test_damaged_texts_are_as_long_in_the_mean(noise: list[str]) -> None:
    """2,000 samples of 50 tokens; how many spans are infilled is drawn."""
    rows = numbered(list(range(2000)), LENGTH)
    sources, targets = Denoising(set(noise), 0.3, 3.0, 999_999, None)(rows, Draws(3, rows.samples_b))  # type: ignore[arg-type]
    found = lengths_of(seq2seq="denoising", noise=noise)
    assert found is not None
    assert np.mean([len(source) + 1 for source in sources]) == pytest.approx(found.source, abs=0.6)
    assert {len(target) + 1 for target in targets} == {found.target}


def test_only_data_tell_how_long_pairs_are() -> None:
    assert lengths_of(seq2seq="pairs") is None
