"""Random numbers without state: hashes of what they are for.

Our own, because library generators may change between versions, and because a hash can be asked for
any sample in any order: results then depend neither on worker count nor on rank, backend or batch.
"""

import random

import numpy as np
import torch

# 2^64 / golden ratio: the step of splitmix64 (Steele et al. 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def mix(x: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    """Mix the bits of 64-bit integers, element by element, modulo 2^64.

    A bijection: the finaliser of splitmix64 (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def hash64(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or arrays of integers, to uint64.

    Each part is absorbed by one round of splitmix64; arrays are broadcast.
    """
    if all(type(part) is int for part in parts):
        return np.uint64(_hash_ints(parts))
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            state = mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def _hash_ints(parts: tuple[int, ...]) -> int:
    """Hash plain Python integers as `hash64` does.

    This takes a fifth of numpy's time for scalars, and every training step calls it.
    """
    state = 0
    for part in parts:
        state = ((state ^ (part & _MASK)) + int(_GOLDEN)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or arrays of integers, to float64 in [0, 1), 53 bits."""
    return (hash64(*parts) >> np.uint64(11)) * 2.0**-53


def seed_generators(device: torch.device, *parts: int) -> None:
    """Seed the generators of torch, NumPy and Python with a hash of the parts.

    Nets (dropout) and callbacks draw from these generators.
    """
    seed = _hash_ints(parts) >> 1
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
