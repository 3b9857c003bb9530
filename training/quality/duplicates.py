"""Duplicates: the same pixels twice, and pictures that are nearly the same.

Copies that were scaled, compressed again or made a little lighter are found by a perceptual hash
and verified on the small pictures. Knows nothing about files, splits or labels.
Legend: N rows, S side of the small pictures, C channels, P pairs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Lowest frequencies of each side in a hash: 8 x 8 without the mean are 63 bits.
_FREQUENCIES = 8
# Bits in which the hashes of two candidates may differ. In 8 bands of 8 bits, two hashes that
# differ in 7 bits or fewer have at least one band in common.
_MAX_BITS = 7
# From so many pictures on, a band has 16 bits: groups stay small, and copies that differ in more
# than 3 bits may be missed.
_MANY = 1 << 18
# Least correlation of two pictures that are nearly the same, on the strict side: garments on black
# are alike at 0.98, photographs that are no copies are not at 0.9.
SIMILAR = 0.99
# Hashes that are compared with as many others at once: 32 MiB.
_BLOCK = 1 << 11
# Pictures that are transformed, and pairs that are verified, at once.
_CHUNK = 1 << 13


def equal_groups(digests: Sequence[bytes | None]) -> list[list[int]]:
    """Return the groups of two or more rows with one digest, each in rising order."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest is not None:
            groups.setdefault(digest, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_pairs(
    small_NSSC: NDArray[np.uint8], least: float = SIMILAR
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find pairs of pictures that are nearly the same.

    Args:
        small_NSSC: uint8 [N, S, S, C], no two of the same file. Below 8 x 8 pixels nothing is
            found: pictures of so few are alike by chance.
        least: Least correlation of a pair.

    Returns:
        pairs_P2: int64 [P, 2], the lower row first, in rising order.
        similarity_P: float32 [P], ``least`` to 1.
    """
    rows = len(small_NSSC)
    pairs, similarities = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    if small_NSSC.shape[1] >= _FREQUENCIES and rows > 1:
        candidates = _candidates(perceptual_hashes(small_NSSC), 8 if rows < _MANY else 16)
        # A pair may share several bands.
        unique = np.unique(np.concatenate([first * rows + second for first, second in candidates]))
        for start in range(0, len(unique), _CHUNK):
            part = unique[start : start + _CHUNK]
            pairs_P2 = np.stack([part // rows, part % rows], axis=1)
            similarity_P = _similarity(small_NSSC, pairs_P2)
            is_near_P = similarity_P >= least
            pairs.append(pairs_P2[is_near_P])
            similarities.append(similarity_P[is_near_P])
    return np.concatenate(pairs), np.concatenate(similarities)


def perceptual_hashes(small_NSSC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash pictures so that those that look alike differ in few bits.

    A bit says whether one of the lowest frequencies of the cosine transform, in proportion to all
    of them, is above the median of all pictures. The median of the picture itself, as in pHash,
    would give most bits one value in a set of centred objects.

    Returns:
        uint64 [N]; the highest bit is 0.
    """
    basis = _cosines(small_NSSC.shape[1])
    values = np.empty((len(small_NSSC), _FREQUENCIES**2 - 1), np.float32)
    for start in range(0, len(small_NSSC), _CHUNK):
        grey = small_NSSC[start : start + _CHUNK].mean(axis=3, dtype=np.float32)
        low = (basis @ grey @ basis.T).reshape(len(grey), -1)[:, 1:]
        length = np.linalg.norm(low, axis=1, keepdims=True)
        values[start : start + len(grey)] = low / np.maximum(length, 1e-6)
    bits = values > np.median(values, axis=0)
    packed = np.packbits(np.pad(bits, ((0, 0), (1, 0))), axis=1)
    hashes_N: NDArray[np.uint64] = packed.view(">u8").astype(np.uint64).ravel()
    return hashes_N


def _cosines(side: int) -> NDArray[np.float32]:
    """Return the first rows of the cosine transform (DCT-II), float32 [8, S]."""
    frequency, place = np.arange(_FREQUENCIES)[:, None], np.arange(side) + 0.5
    return np.cos(np.pi / side * frequency * place).astype(np.float32)


def _candidates(
    hashes_N: NDArray[np.uint64], width: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (lower rows, higher rows) of pairs with a band in common and few bits different."""
    for shift in range(0, 64, width):
        bands_N = (hashes_N >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(bands_N, kind="stable")
        ends = np.flatnonzero(np.diff(bands_N[order])) + 1
        for group in np.split(order, ends):
            # In rising order, as the sort is stable: the first of a pair is the lower row.
            for start in range(0, len(group), _BLOCK):
                first = group[start : start + _BLOCK]
                for other in range(start, len(group), _BLOCK):
                    second = group[other : other + _BLOCK]
                    bits = np.bitwise_count(hashes_N[first][:, None] ^ hashes_N[second])
                    at, to = np.nonzero(bits <= _MAX_BITS)
                    is_pair = first[at] < second[to]
                    yield first[at][is_pair], second[to][is_pair]


def _similarity(small_NSSC: NDArray[np.uint8], pairs_P2: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the correlation of each pair over all pixels and channels, float32 [P]."""
    first, second = (_standardized(small_NSSC[pairs_P2[:, side]]) for side in (0, 1))
    similarity_P: NDArray[np.float32] = np.einsum("pd,pd->p", first, second)
    return similarity_P


def _standardized(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 [n, D] of mean 0 and length 1; zeros for a picture of one colour."""
    values = pictures.reshape(len(pictures), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values
