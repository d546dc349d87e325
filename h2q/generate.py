"""Sampling bytes from a model, one at a time."""

import torch
from torch import Tensor

from h2q.config import require
from h2q.model import ByteModel


@torch.no_grad()
def generate(
    model: ByteModel,
    prompt: bytes,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> bytes:
    """`length` new bytes after the prompt, each drawn from the model given the last `seq_len` bytes.

    Temperature 0 takes the likeliest byte. The same seed gives the same bytes. The model is left in the mode it was in.
    Raises: UserError for an empty prompt, a negative length or temperature, a top_k below 1.
    """
    require(len(prompt) > 0, "the prompt must hold at least one byte")
    require(length >= 0, f"length must be at least 0 bytes, got {length}")
    require(temperature >= 0, f"temperature must be at least 0, got {temperature}")
    require(top_k is None or top_k >= 1, f"top_k must be at least 1, got {top_k}")
    generator = torch.Generator().manual_seed(seed)
    window = model.config.seq_len
    text = bytearray(prompt)
    was_training = model.training
    model.eval()
    try:
        for _ in range(length):
            x = torch.tensor([list(text[-window:])], device=model.pos_emb.device)
            text.append(sample(model(x)[0, -1].float().cpu(), temperature, top_k, generator))
    finally:
        model.train(was_training)
    return bytes(text[len(prompt) :])


def sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One byte drawn from logits (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
