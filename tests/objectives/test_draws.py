"""Oracle: a draw depends on the seed, the sample and the purpose alone; uniform by chi-square at a fixed seed."""

import numpy as np

from megalm.objectives.draws import Draws
from tests.objectives.chi_square import chance


def test_a_sample_draws_the_same_in_any_company() -> None:
    together = Draws(7, np.arange(5)).uniform("spans", 9)
    for sample in range(5):
        alone = Draws(7, np.array([sample])).uniform("spans", 9)
        assert np.array_equal(together[sample : sample + 1], alone)
    assert len(np.unique(together)) == together.size


def test_seed_and_purpose_name_other_streams() -> None:
    samples = np.arange(4)
    drawn = [Draws(seed, samples).uniform(purpose, 6) for seed in (7, 8) for purpose in ("spans", "noise")]
    assert len(np.unique(np.stack(drawn))) == 4 * 4 * 6


def test_draws_are_uniform() -> None:
    drawn = Draws(1, np.arange(2000)).uniform("spans", 10)
    assert 0 <= drawn.min() < drawn.max() < 1
    assert chance(np.bincount((drawn.ravel() * 50).astype(int))) > 1e-3


def test_every_permutation_is_as_likely() -> None:
    orders = Draws(2, np.arange(6000)).order("spans", 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert chance(counts) > 1e-3
