"""The bodies of kernels for training, in Triton: imported only where that is there. Sums are in float32."""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]


@triton.jit
def add_norm(
    source,
    added,
    weight,
    bias,
    total,
    normed,
    moments,
    count,
    width,
    source_stride,
    added_stride,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS positions of `h2q.kernels.norm.add_norm`; their means and inverse deviations are kept in `moments`."""
    # Offsets of large batches pass 2^31.
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    live, inside = rows < count, columns < width
    mask = live[:, None] & inside[None, :]
    x = tl.load(source + rows[:, None] * source_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    out = rows[:, None] * width + columns[None, :]
    if ADD:
        x += tl.load(added + rows[:, None] * added_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(total + out, x, mask=mask)
    mean = tl.sum(x, 1) / width
    centred = tl.where(mask, x - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    y = centred * inverse[:, None] * gain[None, :] + shift[None, :]
    tl.store(normed + out, y.to(normed.dtype.element_ty), mask=mask)
    tl.store(moments + rows, mean, mask=live)
    tl.store(moments + count + rows, inverse, mask=live)


@triton.jit
def add_norm_backward(
    total,
    weight,
    moments,
    to_normed,
    to_total,
    to_source,
    to_added,
    to_norm,
    count,
    width,
    total_stride,
    normed_stride,
    behind_stride,
    turns,
    BEHIND: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Every program takes several tiles of ROWS positions, and adds up what they say of weight and bias."""
    first, several = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    to_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    to_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    for turn in tl.range(0, turns, num_stages=3):  # loads of the coming turns are under way
        rows = ((first + turn * several) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        live = rows < count
        mask = live[:, None] & inside[None, :]
        x = tl.load(total + rows[:, None] * total_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(moments + rows, mask=live, other=0.0)
        inverse = tl.load(moments + count + rows, mask=live, other=0.0)
        g = tl.load(to_normed + rows[:, None] * normed_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        formed = tl.where(mask, (x - mean[:, None]) * inverse[:, None], 0.0)
        to_weight += g * formed
        to_bias += g
        g = g * gain[None, :]
        along = tl.sum(g * formed, 1) / width
        level = tl.sum(g, 1) / width
        result = (g - level[:, None] - formed * along[:, None]) * inverse[:, None]
        if BEHIND:
            result += tl.load(to_total + rows[:, None] * behind_stride + columns[None, :], mask=mask, other=0.0)
        out = rows[:, None] * width + columns[None, :]
        tl.store(to_source + out, result, mask=mask)
        if ADD:
            tl.store(to_added + out, result.to(to_added.dtype.element_ty), mask=mask)
    tl.store(to_norm + first * 2 * width + columns, tl.sum(to_weight, 0), mask=inside)
    tl.store(to_norm + (first * 2 + 1) * width + columns, tl.sum(to_bias, 0), mask=inside)


@triton.jit
def column_sums(x, sums, count, width, stride, share, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of COLUMNS columns over `share` rows, a multiple of ROWS: sums (programs, width)."""
    part = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in tl.range(0, share, ROWS, num_stages=3):
        rows = (part * share + step + tl.arange(0, ROWS)).to(tl.int64)
        mask = (rows < count)[:, None] & inside[None, :]
        total += tl.load(x + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(sums + part * width + columns, tl.sum(total, 0).to(sums.dtype.element_ty), mask=inside)


@triton.jit
def _after(a, u, b, v):
    """s → b (a s + u) + v as one pair."""
    return a * b, u * b + v


@triton.jit
def gated_scan(
    p,
    start,
    keep,
    y,
    states,
    end,
    length,
    width,
    KEEP: tl.constexpr,
    STEPS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """COLUMNS channels of one lane of `h2q.kernels.scan.gated_scan`, STEPS positions at a time."""
    lane = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    steps = tl.arange(0, STEPS)
    before = tl.load(start + lane * width + columns, mask=inside, other=0.0).to(tl.float32)
    for first in range(0, length, STEPS):
        rows = first + steps
        mask = (rows < length)[:, None] & inside[None, :]
        place = p + (lane * length + rows[:, None]) * 3 * width + columns[None, :]
        v = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        a = tl.sigmoid(tl.load(place + width, mask=mask, other=0.0).to(tl.float32))
        z = tl.load(place + 2 * width, mask=mask, other=0.0).to(tl.float32)
        decay = a
        if KEEP:
            kept = tl.load(keep + lane * length + rows, mask=rows < length, other=0.0).to(tl.float32)
            decay = a * kept[:, None]
        # Behind the end nothing changes any more.
        decay, new = tl.associative_scan((tl.where(mask, decay, 1.0), tl.where(mask, (1.0 - a) * v, 0.0)), 0, _after)
        s = decay * before[None, :] + new
        out = (lane * length + rows[:, None]) * width + columns[None, :]
        tl.store(states + out, s, mask=mask)
        tl.store(y + out, (s * z * tl.sigmoid(z)).to(y.dtype.element_ty), mask=mask)
        before = tl.sum(tl.where((steps == STEPS - 1)[:, None], s, 0.0), 0)
    tl.store(end + lane * width + columns, before, mask=inside)


@triton.jit
def gated_scan_backward(
    p,
    start,
    keep,
    states,
    to_y,
    to_end,
    to_p,
    to_start,
    length,
    width,
    tiles,
    KEEP: tl.constexpr,
    END: tl.constexpr,
    STEPS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The same backwards, from the last position to the first."""
    lane = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    steps = tl.arange(0, STEPS)
    # What the steps behind say of the state: the gradient at the end counts as one step that keeps all.
    behind = tl.zeros([COLUMNS], tl.float32)
    if END:
        behind = tl.load(to_end + lane * width + columns, mask=inside, other=0.0).to(tl.float32)
    for tile in range(0, tiles):
        rows = (tiles - 1 - tile) * STEPS + steps
        mask = (rows < length)[:, None] & inside[None, :]
        flat = lane * length + rows
        place = p + flat[:, None] * 3 * width + columns[None, :]
        v = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        a = tl.sigmoid(tl.load(place + width, mask=mask, other=0.0).to(tl.float32))
        z = tl.load(place + 2 * width, mask=mask, other=0.0).to(tl.float32)
        out = flat[:, None] * width + columns[None, :]
        s = tl.load(states + out, mask=mask, other=0.0)
        g = tl.load(to_y + out, mask=mask, other=0.0).to(tl.float32)
        earlier = tl.load(states + out - width, mask=mask & (rows > 0)[:, None], other=0.0)
        begin = tl.load(start + lane * width + columns, mask=inside, other=0.0).to(tl.float32)
        earlier = tl.where((rows == 0)[:, None], begin[None, :], earlier)
        follows = (rows + 1 < length)[:, None] & inside[None, :]  # the step behind each one
        next_decay = tl.sigmoid(tl.load(place + 4 * width, mask=follows, other=0.0).to(tl.float32))
        decay = a
        if KEEP:
            kept = tl.load(keep + flat, mask=rows < length, other=0.0).to(tl.float32)
            next_kept = tl.load(keep + flat + 1, mask=rows + 1 < length, other=0.0).to(tl.float32)
            earlier, decay, next_decay = earlier * kept[:, None], decay * kept[:, None], next_decay * next_kept[:, None]
        gate = tl.sigmoid(z)
        through, own = tl.associative_scan(
            (tl.where(follows, next_decay, 1.0), tl.where(mask, g * gate * z, 0.0)), 0, _after, reverse=True
        )
        to_state = through * behind[None, :] + own
        target = to_p + flat[:, None] * 3 * width + columns[None, :]
        tl.store(target, ((1.0 - a) * to_state).to(to_p.dtype.element_ty), mask=mask)
        tl.store(target + width, ((earlier - v) * a * (1.0 - a) * to_state).to(to_p.dtype.element_ty), mask=mask)
        tl.store(target + 2 * width, (g * s * gate * (1.0 + z * (1.0 - gate))).to(to_p.dtype.element_ty), mask=mask)
        behind = tl.sum(tl.where((steps == 0)[:, None], to_state, 0.0), 0)
        if tile == tiles - 1:
            first_decay = tl.sum(tl.where((rows == 0)[:, None], decay, 0.0), 0)
            tl.store(to_start + lane * width + columns, first_decay * behind, mask=inside)


@triton.jit
def rotate_phase(y, out, count, eps, QUATERNIONS: tl.constexpr):
    """QUATERNIONS of `h2q.kernels.rotation.rotate_phase`, their components side by side."""
    rows = (tl.program_id(0) * QUATERNIONS + tl.arange(0, QUATERNIONS)).to(tl.int64)
    parts = tl.arange(0, 4)
    place = rows[:, None] * 4 + parts[None, :]
    mask = (rows < count)[:, None] & (parts < 4)[None, :]
    v = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    real = tl.sum(tl.where((parts == 0)[None, :], v, 0.0), 1)
    phase = real * tl.rsqrt(tl.sum(v * v, 1) + eps)
    tl.store(out + place, (v * phase[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit
def rotate_phase_backward(y, to_out, to_y, count, eps, QUATERNIONS: tl.constexpr):
    """Its gradient, as `h2q.kernels.rotation` has it."""
    rows = (tl.program_id(0) * QUATERNIONS + tl.arange(0, QUATERNIONS)).to(tl.int64)
    parts = tl.arange(0, 4)
    place = rows[:, None] * 4 + parts[None, :]
    mask = (rows < count)[:, None] & (parts < 4)[None, :]
    v = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(to_out + place, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(v * v, 1) + eps)
    phase = tl.sum(tl.where((parts == 0)[None, :], v, 0.0), 1) * inverse
    along = tl.sum(g * v, 1) * inverse
    result = g * phase[:, None] - v * (inverse * phase * along)[:, None]
    result += tl.where((parts == 0)[None, :], along[:, None], 0.0)
    tl.store(to_y + place, result.to(to_y.dtype.element_ty), mask=mask)
