"""TensorFlow's counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..op import Op, require
from ..types import I32, I64, U32, U64, Shape, TensorType

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
SEED_KEY = (0x3EC8F720, 0x02461E29)  # scrambles a seed: any of its bits may be the random ones
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds over counters [n, 4] of u32, giving [n, 4] of u32."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c[0] * MULTIPLIERS[0], c[2] * MULTIPLIERS[1]
        c = [(p1 >> _WORD) ^ c[1] ^ np.uint64(k0), p1 & _LOW, (p0 >> _WORD) ^ c[3] ^ np.uint64(k1), p0 & _LOW]
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


@dataclass(frozen=True)
class RandomKey(Op):
    """Key u64[1] and counter u64[2] scrambled from a two-element seed
    (TensorFlow's StatelessRandomGetKeyCounter)."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(types[0].shape == (2,) and types[0].dtype in (I32, I64), f"a seed is no {types[0]}")
        return TensorType(U64, (1,)), TensorType(U64, (2,))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        s0, s1 = (int(s) & 0xFFFFFFFFFFFFFFFF for s in arrays[0].astype(np.int64))
        counter = np.array([[s0 & 0xFFFFFFFF, s0 >> 32, s1 & 0xFFFFFFFF, s1 >> 32]], np.uint32)
        mixed = philox(counter, SEED_KEY)[0].astype(np.uint64)
        key = np.array([mixed[0] | (mixed[1] << _WORD)], np.uint64)
        return key, np.array([0, mixed[2] | (mixed[3] << _WORD)], np.uint64)


@dataclass(frozen=True)
class RandomBits(Op):
    """u32 values of the stream at (key u64[1], counter u64[2]): four for each step of the 128-bit
    counter, in row-major order."""

    shape: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(types == (TensorType(U64, (1,)), TensorType(U64, (2,))), "takes u64[1] and u64[2]")
        return (TensorType(U32, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        key, counter = int(arrays[0][0]), arrays[1]
        size = prod(self.shape)
        steps = np.arange(-(-size // 4), dtype=np.uint64)
        low = counter[0] + steps
        high = counter[1] + (low < steps).astype(np.uint64)
        words = np.stack([low & _LOW, low >> _WORD, high & _LOW, high >> _WORD], axis=1)
        bits = philox(words.astype(np.uint32), (key & 0xFFFFFFFF, key >> 32))
        return (bits.reshape(-1)[:size].reshape(self.shape),)
