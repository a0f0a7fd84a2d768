"""TensorFlow's random bits: Philox 4x32-10 over vectors of 128-bit counters.

A word of the state sits in a 64-bit lane whose upper half is left undefined: the 32x32->64 multiply
reads only the lower half and gives both halves of the product in place, so that a round is two
multiplies, two shifts and four exclusive ors.
"""

from __future__ import annotations

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.random import MULTIPLIERS, SEED_KEY, WEYL
from ..emitter import I32, I64, Emitter, const, i64
from ..isa import Isa
from ..kernel import Kernel, Phase

_ROUNDS = 10
_ROUNDS_PER_TURN = 2
_WORDS = 4  # of 32 bits that one counter gives
_UNROLL = 2  # vectors in flight: a round's latency is twice its throughput
_CHUNK_WORDS = 1 << 15  # about 20 us of one core
_MAX_CHUNKS = 64

State = list[ll.Value]


def lower_random_key(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``random_key``: one evaluation of Philox, in scalars."""
    seed = node.operands[0].type.dtype
    return Kernel(node, (Phase(1, _emit_key),), key=f"random_key {seed} {isa.name}",
                  scratch=2 * _ROUNDS * 8, label="random key")


def lower_random_bits(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``random_bits``: a chunk is a range of counters."""
    size = node.results[0].type.size
    block = isa.lanes(8) * _UNROLL * _WORDS
    chunks = max(1, min(_MAX_CHUNKS, size // max(_CHUNK_WORDS, block)))

    def emit(e: Emitter) -> None:
        _emit_bits(e, size, chunks)

    return Kernel(node, (Phase(chunks, emit),), key=f"random_bits {size} {isa.name}",
                  scratch=2 * _ROUNDS * isa.vector_bytes + block * 4, label="random bits")


LOWERINGS = {"random_key": lower_random_key, "random_bits": lower_random_bits}


def _emit_key(e: Emitter) -> None:
    b = e.b
    stored = I32 if e.node.operands[0].type.dtype.bytes == 4 else I64
    state: State = []
    for i in range(2):
        seed = e.load(e.at(e.operand(0), i, stored), stored, stored.width // 8)
        wide = b.sext(seed, I64) if stored is I32 else seed
        state += [wide, b.lshr(wide, i64(32))]
    _store_schedule(e, i64(SEED_KEY[0]), i64(SEED_KEY[1]), 1)
    (mixed,) = _philox(e, [state])
    e.store(_joined(e, mixed[0], mixed[1]), e.result(0), 8)
    e.store(i64(0), e.result(1), 8)
    e.store(_joined(e, mixed[2], mixed[3]), e.at(e.result(1), 1, I64), 8)


def _store_schedule(e: Emitter, k0: ll.Value, k1: ll.Value, lanes: int) -> None:
    """Write the ten rounds' keys to scratch, a pair of vectors a round; of ``k0`` and ``k1`` (i64)
    the lower halves count."""
    type_ = e.vector(I64, lanes)
    for i in range(_ROUNDS):
        for j, key in enumerate((k0, k1)):
            value = e.splat(e.b.add(key, i64(WEYL[j] * i & 0xFFFFFFFF)), lanes)
            e.store(value, e.at(e.scratch, 2 * i + j, type_), lanes * 8)


def _philox(e: Emitter, states: list[State]) -> list[State]:
    """Ten rounds, keys from scratch, over states of four words in (vectors of) i64 lanes; upper
    halves are ignored and undefined. The states advance together: a processor's window does not
    reach from one to the next over ten rounds."""
    type_ = states[0][0].type
    align = 8 * (type_.count if isinstance(type_, ll.VectorType) else 1)
    flat = [word for state in states for word in state]
    with e.loop_carried(0, _ROUNDS, _ROUNDS_PER_TURN, flat, "round") as (index, current, following):
        turn = [current[i: i + 4] for i in range(0, len(flat), 4)]
        base = e.at(e.scratch, e.b.mul(index, i64(2)), type_)
        for r in range(_ROUNDS_PER_TURN):
            k0, k1 = (e.load(e.at(base, 2 * r + j, type_), type_, align) for j in range(2))
            turn = [_round(e, state, k0, k1) for state in turn]
        following[:] = [word for state in turn for word in state]
    return [following[i: i + 4] for i in range(0, len(flat), 4)]


def _round(e: Emitter, state: State, k0: ll.Value, k1: ll.Value) -> State:
    c0, c1, c2, c3 = state
    p0, p1 = _product(e, c0, int(MULTIPLIERS[0])), _product(e, c2, int(MULTIPLIERS[1]))
    return [e.b.xor(_upper(e, p1), e.b.xor(c1, k0)), p1, e.b.xor(_upper(e, p0), e.b.xor(c3, k1)), p0]


def _product(e: Emitter, x: ll.Value, multiplier: int) -> ll.Value:
    return e.b.mul(e.b.and_(x, const(x.type, 0xFFFFFFFF)), const(x.type, multiplier))


def _upper(e: Emitter, x: ll.Value) -> ll.Value:
    return e.b.lshr(x, const(x.type, 32))


def _joined(e: Emitter, low: ll.Value, high: ll.Value) -> ll.Value:
    return e.b.or_(e.b.and_(low, const(low.type, 0xFFFFFFFF)), e.b.shl(high, const(high.type, 32)))


def _emit_bits(e: Emitter, size: int, chunks: int) -> None:
    b, lanes = e.b, e.isa.lanes(8)
    block = lanes * _UNROLL * _WORDS
    key = e.load(e.operand(0), I64, 8)
    low = e.load(e.operand(1), I64, 8)
    high = e.splat(e.load(e.at(e.operand(1), 1, I64), I64, 8), lanes)
    _store_schedule(e, key, b.lshr(key, i64(32)), lanes)
    spill = e.at(e.scratch, 2 * _ROUNDS * lanes, I64)
    base, out = e.splat(low, lanes), e.result(0)
    whole, rest = divmod(size, block)
    start, stop = e.range_of_chunk(whole + (rest > 0), chunks)
    with e.loop(start, stop, name="block") as index:
        target = e.at(out, b.mul(index, i64(block)), I32)
        if rest:
            target = b.select(b.icmp_signed("==", index, i64(whole)), spill, target)
        first = b.mul(index, i64(lanes * _UNROLL))
        vectors = [_counters(e, base, high, b.add(first, i64(u * lanes))) for u in range(_UNROLL)]
        for u, state in enumerate(_philox(e, vectors)):
            _store_words(e, state, e.at(target, u * lanes * _WORDS, I32))
    if rest:
        with b.if_then(b.icmp_signed("==", e.chunk, i64(chunks - 1))), e.loop(0, rest) as i:
            value = e.load(e.at(spill, i, I32), I32, 4)
            e.store(value, e.at(out, b.add(i64(whole * block), i), I32), 4)


def _counters(e: Emitter, low: ll.Value, high: ll.Value, first: ll.Value) -> State:
    """Counters ``first`` to ``first + lanes - 1`` past the base, in the order _store_words wants."""
    b, lanes = e.b, e.isa.lanes(8)
    order = [i // 2 + (lanes // 2) * (i % 2) for i in range(lanes)]
    offsets = ll.Constant(low.type, [i64(o) for o in order])
    c0 = b.add(low, b.add(e.splat(first, lanes), offsets))
    carry = b.sext(b.icmp_unsigned("<", c0, low), low.type)
    c2 = b.sub(high, carry)
    return [c0, _upper(e, c0), c2, _upper(e, c2)]


def _store_words(e: Emitter, state: State, target: ll.Value) -> None:
    """Store four words a counter; even lanes hold the first half of the counters, odd the second,
    so that interleaving inside 128-bit lanes puts them in order."""
    lanes = e.isa.lanes(8)
    front, back = _joined(e, state[0], state[1]), _joined(e, state[2], state[3])
    for half in range(2):
        picks = [side * lanes + lane for lane in range(half, lanes, 2) for side in range(2)]
        mask = ll.Constant(ll.VectorType(I32, lanes), [ll.Constant(I32, p) for p in picks])
        words = e.b.shuffle_vector(front, back, mask)
        e.store(words, e.at(target, half * lanes * 2, I32), 4)
