"""The bodies of `h2q.decode.fused`, in Triton: imported only where that is there. Shapes as there."""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]


@triton.jit
def affine(
    x,
    norm_weight,
    norm_bias,
    weight,
    bias,
    out,
    inputs,
    outputs,
    eps,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS outputs of one stream; every program normalises the whole input again, which costs less than a launch."""
    stream = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside, live = columns < inputs, rows < outputs
    v = tl.load(x + stream * inputs + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        v = tl.where(inside, v - tl.sum(v, 0) / inputs, 0.0)
        v = v * tl.rsqrt(tl.sum(v * v, 0) / inputs + eps)
        gain = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
        v = v * gain + tl.load(norm_bias + columns, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + rows[:, None] * inputs + columns[None, :], mask=live[:, None] & inside[None, :], other=0.0)
    y = tl.sum(w.to(tl.float32) * v[None, :], 1) + tl.load(bias + rows, mask=live, other=0.0).to(tl.float32)
    if GELU:
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    place = out + stream * outputs + rows
    if ADD:
        y += tl.load(place, mask=live, other=0.0).to(tl.float32)
    tl.store(place, y.to(out.dtype.element_ty), mask=live)


@triton.jit
def attend(
    qkv,
    kept_keys,
    kept_values,
    position,
    out,
    heads,
    length,
    scale,
    eps,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """One head of one stream; the softmax is summed tile by tile, over the positions that there are only."""
    # Offsets into the cache of many streams pass 2^31.
    stream, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    newest = tl.load(position).to(tl.int32)
    channels = tl.arange(0, WIDE)
    inside = channels < SIZE
    own = qkv + (stream * 3 * heads + head) * SIZE + channels
    query = tl.load(own, mask=inside, other=0.0).to(tl.float32) * scale
    key = tl.load(own + heads * SIZE, mask=inside, other=0.0).to(kept_keys.dtype.element_ty)
    value = tl.load(own + 2 * heads * SIZE, mask=inside, other=0.0).to(kept_values.dtype.element_ty)
    start = (stream * heads + head) * length * SIZE
    tl.store(kept_keys + start + newest * SIZE + channels, key, mask=inside)
    tl.store(kept_values + start + newest * SIZE + channels, value, mask=inside)
    # The newest position first; what was just stored is not read back.
    top = tl.sum(query * key.to(tl.float32), 0)
    total = tl.full([], 1.0, tl.float32)
    mixed = value.to(tl.float32)
    for first in range(0, newest, TILE):
        rows = first + tl.arange(0, TILE)
        earlier = rows < newest
        places = start + rows[:, None] * SIZE + channels[None, :]
        mask = earlier[:, None] & inside[None, :]
        keys = tl.load(kept_keys + places, mask=mask, other=0.0).to(tl.float32)
        values = tl.load(kept_values + places, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(earlier, tl.sum(keys * query[None, :], 1), float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 0))
        shrink, weights = tl.exp(top - highest), tl.exp(scores - highest)
        total = total * shrink + tl.sum(weights, 0)
        mixed = mixed * shrink + tl.sum(weights[:, None] * values, 0)
        top = highest
    y = mixed / total
    if ROTATE:
        quaternions = tl.reshape(y, (WIDE // 4, 4))
        real = tl.sum(tl.where(tl.arange(0, 4)[None, :] == 0, quaternions, 0.0), 1)
        phase = real * tl.rsqrt(tl.sum(quaternions * quaternions, 1) + eps)
        y = tl.reshape(quaternions * phase[:, None], (WIDE,))
    tl.store(out + (stream * heads + head) * SIZE + channels, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def embed(window, position, tokens, positions, out, vocab, length, streams, width, COLUMNS: tl.constexpr):
    """One half of one stream: the newest byte's token and its position."""
    stream, half = tl.program_id(0), tl.program_id(1)
    at = tl.load(position)
    symbol = tl.minimum(tl.load(window + stream * (length + 1) + at), vocab - 1)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    token = tl.load(tokens + (half * vocab + symbol) * width + columns, mask=inside, other=0.0)
    place = tl.load(positions + (half * length + at) * width + columns, mask=inside, other=0.0)
    tl.store(out + (half * streams + stream) * width + columns, token + place, mask=inside)


@triton.jit
def choose(
    logits,
    numbers,
    temperature,
    position,
    window,
    vocab,
    length,
    streams,
    GREEDY: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`h2q.decode.draw.draw` without cuts, for one stream: its byte goes behind the newest one."""
    stream = tl.program_id(0)
    at = tl.load(position)
    columns = tl.arange(0, COLUMNS)
    inside = columns < vocab
    values = tl.load(logits + stream * vocab + columns, mask=inside, other=float("-inf")).to(tl.float64)
    best = tl.max(values, 0)
    broken = tl.sum(((values != values) | (values == float("inf"))).to(tl.int32), 0)
    if GREEDY:
        drawn = tl.argmax(values, 0)
    else:
        weights = tl.exp((values - best) / tl.load(temperature))
        goal = tl.load(numbers + at * streams + stream) * tl.sum(weights, 0)
        drawn = tl.sum(((tl.cumsum(weights, 0) <= goal) & inside).to(tl.int32), 0)
    drawn = tl.where((broken == 0) & (best > float("-inf")), tl.minimum(drawn, vocab - 1), vocab)
    tl.store(window + stream * (length + 1) + at + 1, drawn.to(tl.int64))
