"""Finding documents that repeat an earlier one: exactly, by digest, or nearly, by MinHash.

Two texts are nearly the same when the Jaccard similarity of their shingles (all 16-byte substrings, upper case and the
amount of white space left aside) is at least a threshold. A signature keeps, for each of 120 hash functions, the
smallest value over the shingles: the share of equal entries of two signatures estimates the similarity, with a
standard error of at most 0.046. Signatures are cut into 24 bands of 5; only texts that agree in a whole band are
compared, which finds a pair of similarity 0.8 with probability 0.9999.

Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

DIGEST = 16
SHINGLE = 16
BANDS = 24
BAND_ROWS = 5
HASHES = BANDS * BAND_ROWS
BLOCK = 1 << 15
SPREAD = np.uint64(0x9E3779B97F4A7C15)
SCRAMBLE = np.uint64(0xD6E8FEB86659FD93)


def digest(text: str) -> bytes:
    """Return the DIGEST bytes that name the text; equal texts, and no others, share them."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def signature(text: str) -> NDArray[np.uint32]:
    """Return the MinHash signature of a text, uint32 [HASHES]; memory does not grow with the text's shingles."""
    normal = " ".join(text.lower().split()).encode().ljust(SHINGLE)
    factors, summands = np.frombuffer(hashlib.shake_128(b"near duplicates").digest(8 * HASHES), "<u4").reshape(
        2, HASHES
    )
    smallest = np.full(HASHES, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(normal) - SHINGLE + 1, BLOCK):
        shingles = _shingle_hashes(normal[start : start + BLOCK + SHINGLE - 1])
        hashed = np.empty_like(shingles)
        for index in range(HASHES):
            np.multiply(shingles, factors[index] | np.uint32(1), out=hashed)
            hashed += summands[index]
            smallest[index] = min(smallest[index], hashed.min())
    return smallest


def _shingle_hashes(text: bytes) -> NDArray[np.uint32]:
    """Return a hash of every 16-byte substring, by joining the hashes of neighbours 1, 2, 4 and 8 bytes apart."""
    hashed = np.frombuffer(text, np.uint8).astype(np.uint64)
    for reach in (1, 2, 4, 8):
        hashed = (hashed[:-reach] * SPREAD + hashed[reach:]) * SCRAMBLE
        hashed ^= hashed >> np.uint64(32)
    return (hashed >> np.uint64(16)).astype(np.uint32)


def exact_duplicates(digests_db: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each document the first one with the same digest: its own number if it is the first.

    Shapes: ``digests_db`` uint8 [documents, DIGEST]; int64 [documents].
    """
    whole = np.ascontiguousarray(digests_db).view(f"V{DIGEST}").ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def near_duplicates(signatures_dh: NDArray[np.uint32], threshold: float) -> NDArray[np.int64]:
    """Return for each document the kept one that it nearly repeats: its own number if it is kept itself.

    Documents are taken in order, and each is compared with the kept ones before it.

    Shapes: ``signatures_dh`` uint32 [documents, HASHES]; int64 [documents].
    """
    twin = np.arange(len(signatures_dh))
    keys_db = _band_keys(signatures_dh)
    suspect = np.zeros(len(twin), bool)
    for band in range(BANDS):
        _, inverse, counts = np.unique(keys_db[:, band], return_inverse=True, return_counts=True)
        suspect |= counts[inverse] > 1
    kept_with: dict[tuple[int, int], list[int]] = {}
    for document in np.flatnonzero(suspect).tolist():
        keys = list(enumerate(keys_db[document].tolist()))
        candidates = sorted({other for key in keys for other in kept_with.get(key, ())})
        if candidates:
            similarity = (signatures_dh[candidates] == signatures_dh[document]).mean(axis=1)
            if similarity.max() >= threshold:
                twin[document] = candidates[int(similarity.argmax())]
                continue
        for key in keys:
            kept_with.setdefault(key, []).append(document)
    return twin


def _band_keys(signatures_dh: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one 64-bit key a band, uint64 [documents, BANDS]."""
    rows = signatures_dh.reshape(-1, BANDS, BAND_ROWS)
    keys = np.zeros(rows.shape[:2], np.uint64)
    for row in range(BAND_ROWS):
        keys = (keys + rows[:, :, row]) * SCRAMBLE
        keys ^= keys >> np.uint64(32)
    return keys
