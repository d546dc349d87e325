"""A model for ONNX Runtime: one pure function of the bytes that come and of what is known of those before.

    (bytes (n,), state…) → (logits (n, V), state…)        n = 1: a step; more: a chunk

What is known before, all zero or empty at first: `state` (depth, D) of a model that carries one; `keys` and `values`
(depth, t, D) of the t bytes of the window or chunk so far, t + n ≤ T; `recent` (C,) int64, what the tables saw last, a
byte plus one. Whoever calls keeps t + n ≤ T: a window slides by reading its younger half again from nothing; a model
that carries a state empties keys and values every T bytes and keeps the state.

Shapes: `n` bytes, `t` before them, `D` width of a half (or of the stream), `H` heads, `R` rank, `S` blocks, `F` factor
size.
"""

import json
from typing import Any

import numpy as np
import torch

from h2q.errors import UserError, require
from h2q.model import ByteModel
from h2q.ngrams import SYMBOLS
from h2q.tables import MULTIPLIER, PRIME
from pipeline.export.encoding import FP16, INT8, encoding_of, scaled
from pipeline.export.graph import OPSET, Graph
from pipeline.export.model_file import read_content, write_model
from pipeline.export.parts import parts

TOLERANCE = 1e-4
"""By which logits may differ from Python's."""


def check_packages() -> None:
    """Raises: UserError where the packages of the extra `export` are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"an ONNX file needs the package {error.name}: pip install -e '.[export]'") from error


def write_onnx(model: ByteModel, told: dict[str, Any], precision: str, halves: frozenset[str]) -> bytes:
    """The file of a plain model; it was run, in steps and as a chunk, and its logits are Python's in this precision."""
    import onnx
    from onnx import TensorProto, helper

    config = model.config
    builder = _Builder(model, precision, halves)
    known, behind = builder.build()
    whole, real = TensorProto.INT64, TensorProto.FLOAT
    inputs = {"bytes": (whole, ["n"])} | {
        name: (whole if name == "recent" else real, shape) for name, shape in known.items()
    }
    outputs = {"logits": (real, ["n", config.vocab])} | {
        name: (whole if name == "next_recent" else real, shape) for name, shape in behind.items()
    }
    made = helper.make_model(
        builder.graph.made("h2q", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=7,
        producer_name="h2q",
        doc_string=__doc__,
    )
    helper.set_model_props(made, {name: json.dumps(value) for name, value in told.items()})
    onnx.checker.check_model(made)
    content = made.SerializeToString()
    rounded, _ = read_content(write_model(model, {}, precision, halves), "the model")
    compare(content, rounded)
    return content


def begin(model: ByteModel) -> dict[str, np.ndarray]:
    """What is known before the first byte, by the names of the inputs."""
    config = model.config
    known: dict[str, np.ndarray] = {}
    if config.mixer != "state":
        known |= {name: np.zeros((config.depth, 0, config.width), np.float32) for name in ("keys", "values")}
    if model.tables is not None:
        known["recent"] = np.zeros(model.tables.context, np.int64)
    if config.carries:
        known["state"] = np.zeros((config.depth, config.width), np.float32)
    return known


def session(content: bytes) -> Any:
    """ONNX Runtime with the file, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def advance(running: Any, data: bytes, known: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits (n, V) behind each of the bytes, and what is known behind the last."""
    names = [output.name for output in running.get_outputs()]
    found = dict(zip(names, running.run(None, {"bytes": np.frombuffer(data, np.uint8).astype(np.int64)} | known)))
    return found.pop("logits"), {name.removeprefix("next_"): value for name, value in found.items()}


@torch.no_grad()
def compare(content: bytes, model: ByteModel) -> None:
    """Raises: UserError where ONNX Runtime's logits are not the model's."""
    count = min(24, model.config.seq_len)
    data = bytes(i * 37 % min(256, model.config.vocab) for i in range(count))
    wanted = model(torch.tensor([list(data)]))[0].numpy()
    running, known, rows = session(content), begin(model), []
    chunk, _ = advance(running, data, known)
    for byte in data:
        row, known = advance(running, bytes((byte,)), known)
        rows.append(row)
    far = max(float(np.abs(found - wanted).max()) for found in (chunk, np.concatenate(rows)))
    require(far <= TOLERANCE, f"ONNX Runtime's logits differ from Python's by {far:.1e}, more than {TOLERANCE}")


class _Builder:
    """Follows a byte through the model, as `h2q.model.ByteModel.forward` does."""

    def __init__(self, model: ByteModel, precision: str, halves: frozenset[str]) -> None:
        self.graph, self._model, self._config = Graph(), model, model.config
        self._parts = {part.name: part for part in parts(model)}
        self._names: dict[Any, str] = {module: name for name, module in model.named_modules()}
        self._precision, self._halves = precision, halves
        self._mixing: dict[int, str] = {}

    def build(self) -> tuple[dict[str, list], dict[str, list]]:
        """All nodes; shapes of what is known before, and behind, by name."""
        g, config, model = self.graph, self._config, self._model
        attends, carries, width, depth = config.mixer != "state", config.carries, config.width, config.depth
        table = self._weight("token_emb")
        stream = g.op("Gather", table, "bytes", axis=0)
        self._count = g.op("Shape", "bytes")
        known: dict[str, list] = {}
        if attends:
            known |= {"keys": [depth, "t", width], "values": [depth, "t", width]}
            before = g.op("Gather", g.op("Shape", "keys"), g.constant(1, np.int64), axis=0)
            total = g.op("Add", before, g.op("Squeeze", self._count))
            one, nothing = g.constant(1, np.int64), g.constant(0, np.int64)
            self._places, places = g.op("Range", before, total, one), g.op("Range", nothing, total, one)
            ahead = g.op("Unsqueeze", self._places, g.numbers(1))
            # (n, t + n): how far back a place lies; below 0 it is still to come.
            self._distance = g.op("Sub", ahead, g.op("Unsqueeze", places, g.numbers(0)))
            if model.pos_emb is not None:
                stream = g.op("Add", stream, g.op("Gather", self._weight("pos_emb"), self._places, axis=0))
        halves = [g.cut(stream, i * width, (i + 1) * width, 1) for i in range(config.dim // width)]
        recent = ""
        if model.tables is not None:
            known["recent"] = [model.tables.context]
            added, recent = self._add_tables()
            halves = [g.op("Add", half, added) for half in halves]
        known |= {"state": [depth, width]} if carries else {}
        first, second = halves[0], halves[-1]
        kept: dict[str, list[str]] = {"keys": [], "values": [], "state": []}
        blocks: Any = model.blocks
        for number, block in enumerate(blocks):
            first, second = self._block(number, block, first, second, kept)
        if config.ends_swapped:
            first, second = second, first
        stream = g.op("Concat", first, second, axis=1) if config.halves else first
        hidden = self._norm(stream, "norm") if config.final_norm else stream
        head = table if config.tied_embeddings else self._weight("head")
        logits = g.op("MatMul", hidden, g.op("Transpose", head, perm=[1, 0]))
        g.alias(g.op("Add", logits, g.constant(model.head.bias.detach().numpy())), "logits")
        for name, values in kept.items():
            if values:
                g.alias(
                    g.op("Concat", *(g.op("Unsqueeze", one, g.numbers(0)) for one in values), axis=0), f"next_{name}"
                )
        if recent:
            g.alias(recent, "next_recent")
        behind = {
            f"next_{name}": [size if size != "t" else "t_plus_n" for size in shape] for name, shape in known.items()
        }
        return known, behind

    def _block(self, number: int, block: Any, first: str, second: str, kept: dict[str, list[str]]) -> tuple[str, str]:
        g = self.graph
        x = self._norm(second, f"blocks.{number}.norm1")
        for mixer in block.mixer.parts:
            added = (self._attend if hasattr(mixer, "q_proj") else self._remember)(number, mixer, x, kept)
            first = g.op("Add", first, added)
        if not block.hidden:
            return (second, first) if self._config.halves else (first, first)
        if not self._config.halves:
            second = first
        u = self._layer(block.ffn.fc1, self._norm(first, f"blocks.{number}.norm2"), self._model.ffn_rank)
        half = g.constant(0.5, np.float32)
        erf = g.op("Erf", g.op("Mul", u, g.constant(0.5**0.5, np.float32)))
        u = g.op("Mul", g.op("Mul", u, half), g.op("Add", erf, g.constant(1.0, np.float32)))
        second = g.op("Add", second, self._layer(block.ffn.fc2, u, self._model.ffn_rank))
        return (first, second) if self._config.halves else (second, second)

    def _attend(self, number: int, mixer: Any, x: str, kept: dict[str, list[str]]) -> str:
        g, heads, width = self.graph, self._config.heads, self._config.width
        rank, size = self._model.mixer_rank, self._config.width // self._config.heads
        query, key, value = (self._layer(layer, x, rank) for layer in mixer.inward)
        index = g.constant(number, np.int64)
        key = g.op("Concat", g.op("Gather", "keys", index, axis=0), key, axis=0)
        value = g.op("Concat", g.op("Gather", "values", index, axis=0), value, axis=0)
        kept["keys"].append(key)
        kept["values"].append(value)

        def by_head(rows: str, perm: list[int]) -> str:
            return g.op("Transpose", g.reshape(rows, -1, heads, size), perm=perm)

        scores = g.op("MatMul", by_head(query, [1, 0, 2]), by_head(key, [1, 2, 0]))
        scores = g.op("Mul", scores, g.constant(size**-0.5, np.float32))
        if mixer.log_slopes is not None:
            slopes = mixer.log_slopes.detach().exp().numpy().reshape(-1, 1, 1)
            far = g.op("Mul", g.op("Cast", self._distance, to=1), g.constant(slopes))
            scores = g.op("Sub", scores, far)
        later = g.op("Less", self._distance, g.constant(0, np.int64))
        scores = g.op("Where", later, g.constant(-np.inf, np.float32), scores)
        y = g.op("MatMul", g.op("Softmax", scores, axis=-1), by_head(value, [1, 0, 2]))
        y = g.reshape(g.op("Transpose", y, perm=[1, 0, 2]), -1, width)
        if self._config.phase_rotation:
            quaternion = g.reshape(y, -1, width // 4, 4)
            square = g.op("ReduceSum", g.op("Mul", quaternion, quaternion), g.numbers(-1), keepdims=1)
            norm = g.op("Sqrt", g.op("Add", square, g.constant(1e-6, np.float32)))
            y = g.op("Mul", g.op("Div", quaternion, norm), g.cut(quaternion, 0, 1, 2))
            y = g.reshape(y, -1, width)
        return self._layer(mixer.outward, y, rank)

    def _remember(self, number: int, mixer: Any, x: str, kept: dict[str, list[str]]) -> str:
        g, rank, width = self.graph, self._model.mixer_rank, self._config.width
        value, decay, gate = (self._layer(layer, x, rank) for layer in mixer.inward)
        start = g.op("Gather", "state", g.constant(number, np.int64), axis=0)
        if mixer.rotation == "none":
            end, states = self._scan(_gated(width), start, [value, g.op("Sigmoid", decay)], width)
        else:
            turns = self._turns(decay, mixer.rotation)
            end, states = self._scan(_turned(width), start, [value, *turns], width)
        kept["state"].append(end)
        y = g.op("Mul", states, g.op("Mul", gate, g.op("Sigmoid", gate)))
        return self._layer(mixer.outward, y, rank)

    def _turns(self, decay: str, rotation: str) -> tuple[str, str]:
        """Decays and unit quaternions (n, D), components side by side; each decay four times."""
        g, m = self.graph, self._config.width // 4
        c = [g.cut(decay, i * m, (i + 1) * m, 1) for i in range(4)]
        a, half = g.op("Sigmoid", c[0]), g.constant(0.5, np.float32)
        if rotation == "phase":
            angle = g.op("Mul", c[1], half)
            nothing = g.op("Mul", angle, g.constant(0.0, np.float32))
            u = [g.op("Cos", angle), g.op("Sin", angle), nothing, nothing]
        else:
            square = g.op("Add", g.op("Add", *(g.op("Mul", c[i], c[i]) for i in (1, 2))), g.op("Mul", c[3], c[3]))
            angle = g.op("Sqrt", g.op("Add", square, g.constant(1e-12, np.float32)))
            along = g.op("Div", g.op("Sin", g.op("Mul", angle, half)), angle)
            u = [g.op("Cos", g.op("Mul", angle, half)), *(g.op("Mul", along, c[i]) for i in (1, 2, 3))]
        return g.op("Concat", a, a, a, a, axis=1), g.op("Concat", *u, axis=1)

    def _scan(self, body: Any, start: str, rows: list[str], width: int) -> list[str]:
        return self.graph.op("Scan", start, *rows, outputs=2, body=body, num_scan_inputs=len(rows))

    def _layer(self, layer: Any, x: str, rank: int) -> str:
        """x (n, I) → (n, O): by factors, blocks mixed first, or by an ordinary matrix."""
        g, model, name = self.graph, self._model, self._names[layer]
        weight = self._weight(name)
        if model.bank is not None:
            blocks, factor = self._config.blocks, self._config.factor
            mixed = g.op("MatMul", self._mix(rank), g.reshape(x, -1, blocks, factor))
            x = g.reshape(g.op("MatMul", g.reshape(mixed, -1, blocks, rank * factor), weight), -1, blocks * factor)
        else:
            x = g.op("MatMul", x, weight)
        return g.op("Add", x, g.constant(layer.bias.detach().numpy()))

    def _mix(self, rank: int) -> str:
        """Hamilton matrices (S R, S) of the bank, which all layers of a rank share."""
        if rank not in self._mixing:
            bank = self._model.bank
            assert bank is not None
            matrices = bank.matrices(rank).detach()
            matrices = matrices.half().float() if self._precision == "int8" else matrices  # as in the other formats
            mix = matrices.transpose(0, 1).reshape(-1, self._config.blocks)
            self._mixing[rank] = self.graph.constant(mix.numpy())
        return self._mixing[rank]

    def _weight(self, name: str) -> str:
        """A table (rows, columns), or a layer (R I, O), float32."""
        g, part = self.graph, self._parts[name]
        tensor, encoding = part.tensor.float(), encoding_of(part, self._precision, self._halves)
        flat = tensor.flatten(0, -2)
        if encoding == INT8:
            numbers, scales = scaled(tensor)
            wide = g.op("Mul", g.op("Cast", g.constant(numbers.numpy()), to=1), g.constant(scales.unsqueeze(1).numpy()))
            return g.reshape(wide, *flat.shape)
        if encoding == FP16:
            return g.op("Cast", g.constant(flat.half().numpy()), to=1)
        return g.constant(flat.numpy())

    def _norm(self, x: str, name: str) -> str:
        """The pattern of nodes that ONNX Runtime computes as one."""
        g = self.graph
        gain, bias = (g.constant(view.detach().numpy()) for view in self._parts[name].views)
        centred = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1], keepdims=1))
        square = g.op("Pow", centred, g.constant(2.0, np.float32))
        variance = g.op("ReduceMean", square, axes=[-1], keepdims=1)
        deviation = g.op("Sqrt", g.op("Add", variance, g.constant(1e-5, np.float32)))
        return g.op("Add", g.op("Mul", g.op("Div", centred, deviation), gain), bias)

    def _add_tables(self) -> tuple[str, str]:
        """What tables add to a half (n, D), and the symbols behind the last byte. See `h2q.tables`."""
        g, tables = self.graph, self._model.tables
        assert tables is not None
        newest = g.op("Add", "bytes", g.constant(1, np.int64))
        symbols = g.op("Concat", "recent", newest, axis=0)
        key, keys = newest, {}
        for back in range(1, tables.context + 1):
            start = g.numbers(tables.context - back)
            earlier = g.op("Slice", symbols, start, g.op("Add", start, self._count), g.numbers(0))
            key = g.op("Add", g.op("Mul", key, g.constant(SYMBOLS, np.int64)), earlier)
            keys[back + 1] = key
        added = []
        for number, table in enumerate(tables.tables):
            row = keys[table.order]
            if not table.exact:
                row = g.modulo(g.op("Mul", row, g.constant(MULTIPLIER, np.int64)), PRIME)
                row = g.modulo(row, table.rows)
            added.append(g.op("Gather", self._weight(f"tables.{number}"), row, axis=0))
        left = self._config.width - sum(table.width for table in tables.tables)
        wide = g.op("Pad", g.op("Concat", *added, axis=1), g.numbers(0, 0, 0, left))
        return wide, g.op("Slice", symbols, self._count, g.numbers(1 << 60), g.numbers(0))


def _gated(width: int) -> Any:
    """s ← v + a (s − v), the body of a scan."""
    g = Graph("gated_")
    after = g.op("Add", "v", g.op("Mul", "a", g.op("Sub", "s", "v")))
    return _body(g, after, ["s", "v", "a"], width)


def _turned(width: int) -> Any:
    """s ← v + a (u s − v) with quaternions u, the body of a scan."""
    g, m = Graph("turned_"), width // 4
    u, s = ([g.cut(name, i * m, (i + 1) * m, 0) for i in range(4)] for name in ("u", "s"))
    rows = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))
    signs = ("+---", "++-+", "+++-", "+-++")
    product = []
    # Rows of left multiplication by u, see `h2q.quaternion.hamilton_matrix`.
    for order, sign in zip(rows, signs, strict=True):
        turning = [u[k] if plus == "+" else g.op("Neg", u[k]) for k, plus in zip(order, sign, strict=True)]
        terms = [g.op("Mul", turning[i], s[i]) for i in range(4)]
        product.append(g.op("Add", g.op("Add", terms[0], terms[1]), g.op("Add", terms[2], terms[3])))
    after = g.op("Add", "v", g.op("Mul", "a", g.op("Sub", g.op("Concat", *product, axis=0), "v")))
    return _body(g, after, ["s", "v", "a", "u"], width)


def _body(g: Graph, after: str, inputs: list[str], width: int) -> Any:
    g.alias(after, "s_out")
    g.alias(after, "row")
    return g.made("body", {name: (1, [width]) for name in inputs}, {name: (1, [width]) for name in ("s_out", "row")})
