"""The phase rotation on a GPU in bfloat16, where four channels of a quaternion make one word of 64 bits.

One kernel forward and one backward, which read and write each word once, instead of some thirty: with so little
arithmetic in a block, these took as long as all its matrix products. Leans on torch's jiterator, a private part that
compiles a function of one element; where it is missing, `can_pack` is false and the plain operations serve.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# No sign for "greater" in this code, not even a shift: torch finds the name of a function by the last one.
_SHARED = """
    union Word { long long all; unsigned short part[4]; };
    auto unpack = [](long long word, float* out) {
        Word packed;
        packed.all = word;
        for (int k = 0; k < 4; ++k) out[k] = __uint_as_float(packed.part[k] * 65536u);
    };
    auto pack = [](const float* values) {
        Word packed;
        for (int k = 0; k < 4; ++k) {
            unsigned int bits = __float_as_uint(values[k]);
            unsigned int nearest_even = bits + 0x7fffu + ((bits / 65536u) & 1u);
            packed.part[k] = values[k] == values[k] ? nearest_even / 65536u : 0x7fc0u;
        }
        return packed.all;
    };
    float y[4];
    unpack(y_word, y);
    float inverse = rsqrtf(y[0] * y[0] + y[1] * y[1] + y[2] * y[2] + y[3] * y[3] + 1e-6f);
    float scale = y[0] * inverse;
    float result[4];
"""

FORWARD = (
    "template <typename T> T rotate_phase(T y_word) {"
    + _SHARED
    + """
    for (int k = 0; k < 4; ++k) result[k] = y[k] * scale;
    return pack(result);
}"""
)

BACKWARD = (
    "template <typename T> T rotate_phase_backward(T y_word, T g_word) {"
    + _SHARED
    + """
    float g[4];
    unpack(g_word, g);
    float along = (g[0] * y[0] + g[1] * y[1] + g[2] * y[2] + g[3] * y[3]) * inverse;
    for (int k = 0; k < 4; ++k) result[k] = g[k] * scale - y[k] * (inverse * scale * along);
    result[0] += along;
    return pack(result);
}"""
)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `rotate_packed` works here."""
    found = hasattr(torch.cuda, "jiterator") and hasattr(torch.cuda.jiterator, "_create_jit_fn")
    return device.type == "cuda" and dtype == torch.bfloat16 and torch.version.hip is None and found


def rotate_packed(y: Tensor) -> Tensor:
    """`attention.rotate_phase_ref` on bfloat16 channels (..., D) of a GPU, with the arithmetic in float32."""
    return _Packed.apply(y)  # type: ignore[return-value]


class _Packed(Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:  # type: ignore[override]
        y = y.contiguous()
        ctx.save_for_backward(y)
        return _compiled(FORWARD)(y.view(torch.int64)).view(y.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return _compiled(BACKWARD)(y.view(torch.int64), g.contiguous().view(torch.int64)).view(y.dtype)


@cache
def _compiled(code: str) -> Callable[..., Any]:
    return torch.cuda.jiterator._create_jit_fn(code)
