"""Dense layers: y = W x + bias with an ordinary matrix W."""

import torch
from torch import nn

from h2q.config import ModelConfig


class DenseLinear(nn.Module):
    """An ordinary weight matrix (outputs, inputs) and bias (outputs,), zero until initialised."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def initialise(self, gain: float) -> None:
        """Draw the weight so that a unit-variance input leaves with variance gain²."""
        nn.init.normal_(self.weight, std=gain * self.weight.shape[1] ** -0.5)
