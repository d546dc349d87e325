"""An ONNX graph as it is written down: nodes in order, named by number, constants beside them.

Operators of opset 13 alone, and only such as the smallest published build of ONNX Runtime has: its package for phones
(tests/pipeline/export/test_onnx.py has the list). Hence no LayerNormalization, which ONNX Runtime puts together by
itself, and no Mod.
"""

from typing import Any

import numpy as np

OPSET = 13


class Graph:
    """Collects nodes and constants; a value is its name."""

    def __init__(self, prefix: str = "") -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; its output, or as many as are wanted."""
        names = [f"{self._prefix}{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self._helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, kind: Any = None) -> str:
        """Numbers that the file holds."""
        name = f"{self._prefix}c{len(self.constants)}"
        self.constants.append(self._numpy.from_array(np.array(value, kind, order="C"), name))
        return name

    def numbers(self, *values: int) -> str:
        """A list of int64."""
        return self.constant(values, np.int64)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.numbers(*shape))

    def cut(self, x: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", x, self.numbers(start), self.numbers(stop), self.numbers(axis))

    def modulo(self, x: str, divisor: int) -> str:
        """x mod divisor as Python has it, of int64: from 0 to below the divisor."""
        by = self.constant(divisor, np.int64)
        rest = self.op("Sub", x, self.op("Mul", self.op("Div", x, by), by))  # Div rounds towards zero
        return self.op("Where", self.op("Less", rest, self.constant(0, np.int64)), self.op("Add", rest, by), rest)

    def alias(self, x: str, name: str) -> str:
        """The value under a name of its own, as an output has one."""
        self.nodes.append(self._helper.make_node("Identity", [x], [name]))
        return name

    def made(self, name: str, inputs: dict[str, tuple[Any, list]], outputs: dict[str, tuple[Any, list]]) -> Any:
        """The graph with its inputs and outputs: name → element type, shape (a string is any length)."""
        told = [
            [self._helper.make_tensor_value_info(value, kind, shape) for value, (kind, shape) in side.items()]
            for side in (inputs, outputs)
        ]
        return self._helper.make_graph(self.nodes, name, *told, initializer=self.constants)
