"""Oracle: the Jaccard similarity of the sets of 16-byte substrings, counted directly."""

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from megalm.data.duplicates import BLOCK, HASHES, digest, exact_duplicates, near_duplicates, signature


def jaccard(one: str, other: str) -> float:
    def shingles(text: str) -> set[bytes]:
        data = " ".join(text.lower().split()).encode().ljust(16)
        return {data[index : index + 16] for index in range(len(data) - 15)}

    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=generator.randint(2, 9))) for _ in range(count)]


def edited(text: list[str], edits: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    copy = list(text)
    for _ in range(edits):
        copy[generator.randrange(len(copy))] = f"edit{generator.random()}"
    return copy


def signatures(texts: list[str]) -> NDArray[np.uint32]:
    return np.array([signature(text) for text in texts])


def test_equal_entries_estimate_the_similarity() -> None:
    text = words(2000, 0)
    for edits in (0, 20, 100, 300, 1000):
        one, other = " ".join(text), " ".join(edited(text, edits, edits))
        estimate = float((signature(one) == signature(other)).mean())
        assert abs(estimate - jaccard(one, other)) < 4 * 0.046


def test_the_estimate_has_no_bias() -> None:
    pairs = [(words(60, seed), seed) for seed in range(200)]
    texts = [(" ".join(text), " ".join(edited(text, 8, seed))) for text, seed in pairs]
    errors = [float((signature(a) == signature(b)).mean()) - jaccard(a, b) for a, b in texts]
    assert abs(float(np.mean(errors))) < 4 * 0.046 / len(errors) ** 0.5


@pytest.mark.parametrize("block", [1, 5, 64])
def test_blocks_do_not_change_a_signature(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    text = " ".join(words(30, 1))
    assert len(text) < BLOCK
    whole = signature(text)
    monkeypatch.setattr("megalm.data.duplicates.BLOCK", block)
    assert (signature(text) == whole).all()


def test_case_space_and_short_texts() -> None:
    assert (signature("Some  TEXT\nwith spaces") == signature("some text with spaces")).all()
    assert signature("a").shape == signature("").shape == (HASHES,)
    assert (signature("a") != signature("b")).all()


def test_exact_duplicates_point_to_the_first() -> None:
    texts = ["a", "b", "a", "c", "b", "a"]
    digests_db = np.array([np.frombuffer(digest(text), np.uint8) for text in texts])
    assert exact_duplicates(digests_db).tolist() == [0, 1, 0, 3, 1, 0]


def test_near_duplicates_are_those_above_the_threshold() -> None:
    families = [words(400, seed) for seed in range(8)]
    texts = [" ".join(edited(text, edits, 31 * edits)) for edits in (0, 2, 5, 150) for text in families]
    found = near_duplicates(signatures(texts), 0.8)
    kept: list[int] = []
    for index, text in enumerate(texts):
        similarities = [(jaccard(text, texts[other]), other) for other in kept]
        similarity, other = max(similarities, default=(0.0, index))
        assert not 0.6 < similarity < 0.9, "the texts of this test lie clear of the threshold"
        assert found[index] == (other if similarity >= 0.8 else index)
        if similarity < 0.8:
            kept.append(index)
    assert 8 < len(kept) < len(texts)


def test_a_dropped_document_drops_no_other() -> None:
    first = words(400, 0)
    second = [*first[:-30], *words(30, 1)]
    third = [*words(30, 2), *second[30:]]
    texts = [" ".join(text) for text in (first, second, third)]
    assert jaccard(texts[0], texts[1]) > 0.84
    assert jaccard(texts[1], texts[2]) > 0.84
    assert jaccard(texts[0], texts[2]) < 0.76
    assert near_duplicates(signatures(texts), 0.8).tolist() == [0, 0, 2]
    assert near_duplicates(signatures(texts[:2]), 0.8).tolist() == [0, 0]


def test_no_documents() -> None:
    assert near_duplicates(np.zeros((0, HASHES), np.uint32), 0.8).tolist() == []
