"""How much of a GPU's peak a training run uses: model FLOP utilisation.

A step's model FLOP are 6 × the multiply-adds of the forward pass (a multiply-add is 2, the backward pass takes two for
each) in what is multiplied for every byte: projections, scores and mixtures of attention, head. What generates weights,
and what the reversible mode computes again, does not count. (Chowdhery et al. 2022, PaLM, appendix B.)
"""

from h2q.baselines import products
from h2q.config import ModelConfig

BF16_PEAKS = {
    "GB200": 2500,
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 5090": 209,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 4070 Ti": 80,
    "RTX 3090": 71,
    "RTX A6000": 155,
}
"""Dense bfloat16 TFLOP/s with sums in float32, by a part of the device's name, as NVIDIA's data sheets state them."""


def model_flops(config: ModelConfig) -> float:
    """FLOP of a training step for each byte."""
    # Scores and mixture, each over half the context on average.
    attention = config.width * (config.seq_len + 1) if config.mixer != "state" else 0
    return 6 * (config.depth * (products(config) + attention) + config.dim * config.vocab)


def bf16_peak(device: str) -> float | None:
    """FLOP/s of a device of this name, None if unknown."""
    words = device.replace("-", " ").split()
    for name, peak in BF16_PEAKS.items():
        wanted = name.split()
        if any(words[start : start + len(wanted)] == wanted for start in range(len(words))):
            # A laptop's chip of the same name is another one.
            return None if "Laptop" in words else peak * 1e12
    return None


def utilisation(config: ModelConfig, bytes_per_second: float, device: str) -> dict[str, float]:
    """`mfu`, the share of the bfloat16 peak of one device that trains so fast; empty where the peak is unknown."""
    peak = bf16_peak(device)
    return {} if peak is None else {"mfu": model_flops(config) * bytes_per_second / peak}
