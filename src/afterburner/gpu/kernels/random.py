"""TensorFlow's counter-based random numbers: Philox 4x32-10, the same bits as on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ir import Op
from ...ir.ops.random import MULTIPLIERS, SEED_KEY, WEYL, RandomBits, RandomKey
from ..backend import mx
from . import Lowering

_LOW = 0xFFFFFFFF
_ROUNDS = 10


def _u64(value: int) -> mx.array:
    return mx.array(value, mx.uint64)


def _low(x: mx.array) -> mx.array:
    return x & _u64(_LOW)


def _high(x: mx.array) -> mx.array:
    return x >> _u64(32)


def _philox(counter: Sequence[mx.array], key: tuple[mx.array, mx.array]) -> list[mx.array]:
    """Ten rounds over the four words of the counters; all are 32-bit numbers held as u64."""
    c, (k0, k1) = list(counter), key
    for _ in range(_ROUNDS):
        p0, p1 = c[0] * _u64(int(MULTIPLIERS[0])), c[2] * _u64(int(MULTIPLIERS[1]))
        c = [_high(p1) ^ c[1] ^ k0, _low(p1), _high(p0) ^ c[3] ^ k1, _low(p0)]
        k0, k1 = _low(k0 + _u64(WEYL[0])), _low(k1 + _u64(WEYL[1]))
    return c


def _random_key(op: RandomKey, seed: mx.array) -> tuple[mx.array, ...]:
    s0, s1 = (seed[i: i + 1].astype(mx.int64).view(mx.uint64) for i in (0, 1))
    mixed = _philox([_low(s0), _high(s0), _low(s1), _high(s1)], (_u64(SEED_KEY[0]), _u64(SEED_KEY[1])))
    key = mixed[0] | (mixed[1] << _u64(32))
    counter = mixed[2] | (mixed[3] << _u64(32))
    return key, mx.concatenate([mx.zeros((1,), mx.uint64), counter])


def _random_bits(op: RandomBits, key: mx.array, counter: mx.array) -> tuple[mx.array, ...]:
    size = prod(op.shape)
    steps = mx.arange(-(-size // 4), dtype=mx.uint64)
    low = counter[0:1] + steps
    high = counter[1:2] + (low < steps).astype(mx.uint64)
    words = [_low(low), _high(low), _low(high), _high(high)]
    bits = mx.stack(_philox(words, (_low(key), _high(key))), axis=1).astype(mx.uint32)
    return (bits.reshape(-1)[:size].reshape(op.shape),)


LOWERINGS: dict[type[Op], Lowering] = {RandomKey: _random_key, RandomBits: _random_bits}
