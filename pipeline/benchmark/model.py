"""Time of a whole training step: this model, the published formulation, a dense twin, and the bare matrix products.

Shapes: `B` lanes, `T` bytes of context, `n = B T` positions, `R` rank, `S` blocks, `F` factor size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from h2q.axioms import orthogonality
from h2q.block import Block
from h2q.config import ModelConfig
from h2q.errors import require
from h2q.layers.hamilton import HamiltonLinear, hamilton_linear_ref
from h2q.mixers.attention import rotate_phase_ref
from h2q.model import ByteModel
from pipeline.benchmark.timing import interleave, ratio
from pipeline.config import PUBLISHED_SIZES
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.peak import peak_bytes

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a training step of the model against the published formulation, a dense twin and the bare products."""

    model: ModelConfig = PUBLISHED_SIZES
    """The model; by default H2Q at its published sizes, with attention."""
    lanes: int = 24
    """Lanes of the batch."""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """Arithmetic of the matrix products: fp32, bf16, fp16."""
    rounds: int = 5
    """Turns that each case takes; figures are medians over them."""
    device: str = "auto"
    """`auto`: the GPU if there is one."""
    compile: bool = False
    """Also time the model under torch.compile."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}")
        require(self.lanes >= 1, f"lanes must be at least 1, got {self.lanes}")
        require(self.model.kind == "hamilton", f"model.kind must be hamilton, got {self.model.kind}")
        unknown = sorted(set(self.precisions) - set(PRECISIONS))
        require(not unknown, f"precisions are {', '.join(PRECISIONS)}, got {', '.join(unknown)}")


def run(options: Options) -> dict[str, Any]:
    """Seconds, bytes/s and ratios of all cases; `rows` is the table."""
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    if device.type == "cpu":
        keep_freed_memory()  # As a run does.
    torch.manual_seed(0)
    shape = (options.lanes, options.model.seq_len)
    x, y = (torch.randint(options.model.vocab, shape, device=device) for _ in range(2))
    h2q, published, dense = (
        ByteModel(config).to(device) for config in (options.model, options.model, replace(options.model, kind="dense"))
    )
    models: dict[str, nn.Module] = {
        "h2q": h2q,
        "published formulation": PublishedFormulation(published),
        "published, checkpointed": PublishedFormulation(published, checkpointed=True),
        "dense": dense,
    }
    if options.model.rank_cap > options.model.fixed_rank and options.model.max_rank is None:
        # What growth may need later lies there from the start: it should cost nothing now.
        models["h2q, storage of all ranks"] = ByteModel(
            replace(options.model, max_rank=min(64, options.model.rank_cap))
        ).to(device)
    if options.compile:
        models["h2q, compiled"] = compiled = ByteModel(options.model).to(device)
        compiled.compile()
    floors = {"bare products": False, "bare products, attention's too": True}
    cases: dict[str, Callable[[], object]] = {}
    for name in options.precisions:
        for label, model in models.items():
            cases[f"{label} {name}"] = training_step(model, x, y, PRECISIONS[name])
        for label, attention in floors.items():
            cases[f"{label} {name}"] = bare_products(options.model, x, PRECISIONS[name], attention=attention)
    peaks = {name: peak_bytes(case, device) for name, case in cases.items()}
    seconds = interleave(cases, options.rounds)
    rows = []
    for name in options.precisions:
        for label in [*models, *floors]:
            case = f"{label} {name}"
            rows.append(
                {
                    "case": case,
                    "seconds": median(seconds[case]),
                    "bytes per second": x.numel() / median(seconds[case]),
                    "times h2q": ratio(seconds, case, f"h2q {name}"),
                    "peak MiB": round(peaks[case] / 2**20),
                }
            )
    return {
        "rows": rows,
        "seconds": seconds,
        "parameters": {label: count_parameters(model) for label, model in models.items()},
        "batch": list(shape),
        "model": options.model.to_dict(),
    }


def training_step(
    model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype, *, rate: float = 1e-4, scaled: bool = False
) -> Callable[[], Tensor]:
    """One whole step of the loop every case shares: forward, backward, clipping, fused AdamW; gives the loss.

    The host looks at no value, so that a CUDA graph can hold the step. `scaled`: with a gradient scaler, as float16
    needs it.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02, fused=True, capturable=x.is_cuda)
    scaler = torch.amp.GradScaler(x.device.type, enabled=scaled)
    axiom = orthogonality_ref if isinstance(model, PublishedFormulation) else orthogonality
    original = getattr(model, "_orig_mod", model)
    body = original.model if isinstance(original, PublishedFormulation) else original
    assert isinstance(body, ByteModel)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x)
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        scaler.scale(loss + 1e-3 * axiom(body)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def bare_products(config: ModelConfig, x: Tensor, dtype: torch.dtype, *, attention: bool) -> Callable[[], None]:
    """The floor: the matrix products of all linear layers, forward and twice backward, and nothing else.

    With `attention` also its scores and mixtures of values, 2 products forward and 4 backward a block.
    """
    width, (lanes, length) = config.width, x.shape

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=x.device)

    layers = [(3 * width, width), (width, width), (width, width), (width, width)] * config.depth
    layers.append((config.vocab, config.dim))
    shapes = set(layers)
    weights = {shape: drawn(*shape) for shape in shapes}
    inputs = {shape: drawn(x.numel(), shape[1]) for shape in shapes}
    gradients = {shape: drawn(x.numel(), shape[0]) for shape in shapes}
    heads = drawn(lanes * config.heads, length, width // config.heads)
    scores = drawn(lanes * config.heads, length, length)

    def step() -> None:
        for shape in layers:
            weight, into, gradient = weights[shape], inputs[shape], gradients[shape]
            _ = into @ weight.t()
            _ = gradient @ weight
            _ = gradient.t() @ into
        for _ in range(config.depth if attention else 0):
            for _ in range(2):  # scores and their gradient, mixtures of values and those of gradients
                torch.bmm(heads, heads.transpose(1, 2))
                torch.bmm(scores, heads)
                torch.bmm(scores.transpose(1, 2), heads)

    return step


class PublishedFormulation(nn.Module):
    """The same model in the published formulation: every layer builds its own Hamilton matrices and lays out the
    R × n × S × F intermediate; q, k and v are three layers; attention is written out; autocast decides every cast.

    `checkpointed`: with the activation checkpointing that the published code always has, one more forward pass.
    """

    def __init__(self, model: ByteModel, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        stream = model.dropout(model.token_emb(x) + model.pos_emb[:, : x.shape[1]])
        halves = model.config.halves
        first, second = stream.chunk(2, dim=-1) if halves else (stream, stream)
        for block in model.blocks:
            first = first + self._call(self._attend, block, second if halves else first)
            if halves:
                second = second + self._call(self._feed, block, first)
            else:
                first = first + self._call(self._feed, block, first)
        stream = torch.cat((first, second), dim=-1) if halves else first
        return functional.linear(model.norm(stream), model.head.weight, model.head.bias)

    def _call(self, branch: Callable, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(branch, block, x, use_reentrant=False) if self.checkpointed else branch(block, x)

    def _attend(self, block: Block, x: Tensor) -> Tensor:
        attention, x = block.mixer, block.norm1(x)
        query, key, value = (
            self._linear(layer, x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        future = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + future
        y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
        return self._linear(attention.o_proj, rotate_phase_ref(y) if attention.phase_rotation else y)

    def _feed(self, block: Block, x: Tensor) -> Tensor:
        assert block.norm2 is not None
        widening, narrowing = block.hidden
        return self._linear(narrowing, functional.gelu(self._linear(widening, block.norm2(x))))

    def _linear(self, layer: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(layer, HamiltonLinear) and self.model.bank is not None
        rank = self.model.config.fixed_rank
        return hamilton_linear_ref(x, self.model.bank.components[:rank], layer.factors[:rank], layer.bias)


def orthogonality_ref(model: ByteModel) -> Tensor:
    """`orthogonality` as published: one small product after another."""
    total = torch.zeros((), device=model.device)
    for layer in model.modules():
        if isinstance(layer, HamiltonLinear):
            for factor in layer.factors:
                gram = factor.t() @ factor
                total = total + torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device))
    return total


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
