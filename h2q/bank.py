"""The structure bank: the few matrix-valued quaternions from which every weight of the model is generated.

Shapes: `R` rank, `S` blocks of a Kronecker product, `s = S / 4`.
"""

import torch
from torch import Tensor, nn

from h2q.quaternion import hamilton_matrix


class StructureBank(nn.Module):
    """R matrix-valued quaternions shared by all layers: `components` (R, 4, s, s), zero until initialised."""

    def __init__(self, rank: int, blocks: int) -> None:
        super().__init__()
        self.components = nn.Parameter(torch.zeros(rank, 4, blocks // 4, blocks // 4))

    def matrices(self, rank: int) -> Tensor:
        """Hamilton matrices (rank, S, S) of the first `rank` quaternions. The same for every layer: once a forward."""
        return hamilton_matrix(self.components[:rank])
