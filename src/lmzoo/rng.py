"""Every random draw, as a pure function of a key and counters.

A counter-based generator: a draw is a hash of (key, counters), so it depends neither on the order in
which draws are made, nor on how many processes or micro-batches share the work, nor on the device.
The same code runs on torch tensors and numpy arrays, in 64-bit integers that wrap, so a CPU and a
GPU make the same masks. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators", figure 14).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def key(*parts: int | str) -> int:
    """A 64-bit signed key for any tuple of numbers and names, e.g. ``key(seed, "mask")``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift(x: Any, bits: int) -> Any:
    """Logical right shift of a signed 64-bit integer."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Any) -> Any:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def bits(key: int, *counters: Any) -> Any:
    """Random int64 of the counters' broadcast shape; counters are int64 arrays or tensors."""
    x = key
    for counter in counters:
        x = _mix(counter * _GOLDEN + x)
    return x


def uniform(key: int, *counters: Any) -> Any:
    """Random float64 in [0, 1) of the counters' broadcast shape, on the counters' device."""
    scaled = _shift(bits(key, *counters), 11)
    scaled = scaled.astype(np.float64) if isinstance(scaled, np.ndarray) else scaled.double()
    return scaled * 2.0**-53


_BLOCK = 2**16
"""Hashes made at a time by ``fast_bits``: half a megabyte, which stays in a core's cache."""


def fast_bits(key: int, start: int, count: int) -> Tensor:
    """(count,) random int64 on the CPU: hashes of ``key`` and the numbers from ``start`` on.

    SplitMix64 itself: the states are ``key`` plus multiples of the golden ratio. As ``bits`` with one
    counter, but in place and block by block, for masks with millions of elements.
    """
    import torch

    out = torch.empty(count, dtype=torch.int64)
    numbers = torch.arange(min(_BLOCK, count), dtype=torch.int64).mul_(_GOLDEN)
    scratch = torch.empty_like(numbers)
    for begin in range(0, count, _BLOCK):
        x = out[begin : begin + _BLOCK]
        shifted = scratch[: len(x)]
        torch.add(numbers[: len(x)], _wrap(key + (start + begin) * _GOLDEN), out=x)
        for distance, factor in ((30, _FIRST), (27, _SECOND), (31, None)):
            torch.bitwise_right_shift(x, distance, out=shifted)
            x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - distance)) - 1))
            if factor is not None:
                x.mul_(factor)
    return out


def _wrap(x: int) -> int:
    """The signed 64-bit integer of the same lowest 64 bits."""
    return (x + 2**63) % 2**64 - 2**63


def fast_integers(key: int, start: int, high: np.ndarray) -> np.ndarray:
    """(n,) random int64 in [0, high), for the numbers from ``start`` on; ``high`` is (n,) uint64 below 2**31.

    A draw is half of a hash as ``fast_bits`` makes it: for resampling, which wants hundreds of millions.
    """
    first, count = start // 2, len(high)
    hashes = np.arange(first, (start + count + 1) // 2, dtype=np.uint64)
    scratch = np.empty(min(_BLOCK, len(hashes)), np.uint64)
    golden, one, two, shift = (np.uint64(word % 2**64) for word in (_GOLDEN, _FIRST, _SECOND, key))
    for begin in range(0, len(hashes), _BLOCK):
        x = hashes[begin : begin + _BLOCK]
        beside = scratch[: len(x)]
        x *= golden
        x += shift
        for distance, factor in ((30, one), (27, two), (31, None)):
            np.right_shift(x, np.uint64(distance), out=beside)
            x ^= beside
            if factor is not None:
                x *= factor
    drawn = hashes.view(np.uint32)[start - 2 * first :][:count].astype(np.uint64)
    drawn *= high
    drawn >>= np.uint64(32)
    return drawn.view(np.int64)


def integers(key: int, high: Any, *counters: Any) -> Any:
    """Random int64 in [0, high); ``high`` is a number or an array of the same shape."""
    drawn = uniform(key, *counters) * high
    return drawn.astype(np.int64) if isinstance(drawn, np.ndarray) else drawn.long()


def permuted(key: int, length: int, indices: np.ndarray) -> np.ndarray:
    """Where a random permutation of ``range(length)`` sends ``indices``, without making it whole.

    A Feistel network over the next power of four, walked until it lands inside the range (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", section 4), so that a corpus of any size
    is shuffled in no memory and any step's rows are found at once.

    Args:
        key: names the permutation.
        length: how many things are permuted.
        indices: (n,) int64 in [0, length).

    Returns:
        (n,) int64, a bijection of range(length).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    out = np.asarray(indices, dtype=np.int64).copy()
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & low
        for round_number in range(6):
            left, right = right, left ^ (bits(key + round_number, right) & low)
        out[outside] = (left << half) | right
        outside = out >= length
    return out


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seed the global generators, from which dropout draws, for one step of one rank.

    Dropout is drawn call by call, on a GPU inside PyTorch's kernels, and not by a row's number and position:
    so it alone depends on the number of ranks and micro-batches. A resumed run still repeats it exactly.
    """
    import torch

    torch.manual_seed(key(seed, "dropout", step, rank) & (2**63 - 1))


def torch_counters(samples: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Counters for a draw per position: (B, 1) sample numbers and (1, T) positions."""
    import torch

    return samples[:, None], torch.arange(length, device=samples.device)[None, :]
