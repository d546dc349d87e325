"""Kernels for decoding on a GPU, where a byte of one stream costs their number more than their arithmetic.

With them a block takes five kernels instead of about sixteen. They are written in Triton, which comes with torch for
CUDA on Linux; without it, or without the C compiler that it calls, torch's own operations serve.

Shapes: `B` streams, `I` inputs, `O` outputs, `H` heads, `T` positions, `d` channels of a head, `G` halves of width `D`,
`V` alphabet.
"""

from typing import Any

import torch
from torch import Tensor, nn

from h2q.kernels.rotation import PHASE_EPS
from h2q.kernels.triton_there import power_of_two, triton_works

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of weights and cache that the kernels take; they sum in float32."""

ROWS = 4
"""Outputs that one program of a small product computes."""

WARPS = 4
"""Warps of a program."""


class Kernels:
    """The launches. All tensors are contiguous."""

    few = 8
    """Streams up to which a product for each of them beats one matrix product."""

    def affine(
        self,
        x: Tensor,
        norm: nn.LayerNorm | None,
        weight: Tensor,
        bias: Tensor,
        out: Tensor,
        *,
        gelu: bool = False,
        add: bool = False,
    ) -> None:
        """out (B, O) = gelu(norm(x) Wᵀ + b) for x (B, I), W (O, I), or += with `add`; norm and gelu where asked for."""
        from h2q.decode import triton_kernels

        outputs, inputs = weight.shape
        # Without a norm its place is taken by tensors that are not read.
        norm_weight, norm_bias, eps = (weight, bias, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
        affine: Any = triton_kernels.affine
        affine[(-(-outputs // ROWS), len(x))](
            x,
            norm_weight,
            norm_bias,
            weight,
            bias,
            out,
            inputs,
            outputs,
            eps,
            NORM=norm is not None,
            GELU=gelu,
            ADD=add,
            ROWS=ROWS,
            COLUMNS=power_of_two(inputs),
            num_warps=WARPS,
        )

    def attend(self, qkv: Tensor, kept: Tensor, position: Tensor, out: Tensor, *, rotate: bool) -> None:
        """Attention of the newest byte, whose keys and values are added to those kept: qkv (B, 3 H d), kept
        (2, B, H, T, d), the position a scalar on the device → out (B, H d), with its phase rotated if asked for."""
        from h2q.decode import triton_kernels

        _, streams, heads, length, size = kept.shape
        wide = max(16, power_of_two(size))
        attend: Any = triton_kernels.attend
        attend[(streams, heads)](
            qkv,
            kept[0],
            kept[1],
            position,
            out,
            heads,
            length,
            size**-0.5,
            PHASE_EPS,
            SIZE=size,
            WIDE=wide,
            TILE=min(max(16, power_of_two(length)), 8192 // wide),
            ROTATE=rotate,
            num_warps=WARPS,
        )

    def embed(self, window: Tensor, position: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """The stream (G, B, D) at the newest bytes, in column `position` of the window (B, T + 1): their tokens
        (G, V, D) and their positions (G, T, D) added."""
        from h2q.decode import triton_kernels

        (streams, length), (halves, vocab, width) = window.shape, tokens.shape
        out = tokens.new_empty(halves, streams, width)
        embed: Any = triton_kernels.embed
        embed[(streams, halves)](
            window,
            position,
            tokens,
            positions,
            out,
            vocab,
            length - 1,
            streams,
            width,
            COLUMNS=power_of_two(width),
        )
        return out

    def choose(
        self, logits: Tensor, numbers: Tensor, temperature: Tensor, position: Tensor, window: Tensor, *, greedy: bool
    ) -> None:
        """`draw` without cuts: logits (B, V), numbers (T, B) float64 of which row `position` counts, the
        temperature a float64 scalar on the device → column `position` + 1 of the window (B, T + 1)."""
        from h2q.decode import triton_kernels

        streams, vocab = logits.shape
        choose: Any = triton_kernels.choose
        choose[(streams,)](
            logits,
            numbers,
            temperature,
            position,
            window,
            vocab,
            window.shape[1] - 1,
            streams,
            GREEDY=greedy,
            COLUMNS=power_of_two(vocab),
        )


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """The kernels, where they run: on a CUDA device, with Triton, in a dtype that they take."""
    return Kernels() if device.type == "cuda" and dtype in DTYPES and triton_works() else None
