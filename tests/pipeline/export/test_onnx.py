"""A file for ONNX Runtime computes what Python does, step by step and chunk by chunk, by any cut."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from h2q.errors import UserError
from pipeline.export.model_file import read_content, write_model
from pipeline.export.parts import plain

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pipeline.export.onnx_file import advance, begin, compare, session, write_onnx

MODELS: dict[str, dict[str, Any]] = {
    "attention": {},
    "one stream": {"halves": False, "phase_rotation": False, "tied_embeddings": False, "final_norm": False},
    "relative": {"positions": "relative"},
    "phase": {"mixer": "state", "rotation": "phase", "feed_forward": False, "depth": 3},
    "both, turning": {"mixer": "both", "rotation": "quaternion", "ngrams": "2:97x8,5:64x3"},
    "dense": {"kind": "dense", "ffn_expansion": 3, "mixer": "state", "ngrams": "2:allx2"},
}

MOBILE = (
    "Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat ConstantOfShape Conv ConvTranspose Cos CumSum "
    "DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor Gather GatherND "
    "Gemm GlobalAveragePool Greater GreaterOrEqual Identity If InstanceNormalization LRN LeakyRelu Less LessOrEqual "
    "Log LogSoftmax Loop MatMul MatMulInteger Max MaxPool Mean Min Mul Neg NonMaxSuppression NonZero Not Or PRelu Pad "
    "Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "Relu Reshape Resize ReverseSequence Round Scan ScatterND Shape Sigmoid Sin Size Slice Softmax SpaceToDepth Split "
    "Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unique Unsqueeze Where"
)
"""Of opset 13 in ONNX Runtime's package for phones: `ai.onnx;13` in
tools/ci_build/github/android/mobile_package.required_operators.config of microsoft/onnxruntime at 3de3fc0.
Its builds of today, onnxruntime-android and the WebAssembly of onnxruntime-web, have all operators of the CPU."""

TEXT = bytes(range(5, 250, 16))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_any_cut_gives_the_logits_of_python(name: str, precision: str, new_model: Callable) -> None:
    model = plain(new_model(**MODELS[name]))
    running = session(write_onnx(model, {}, precision, frozenset()))
    rounded, _ = read_content(write_model(model, {}, precision), "the model")
    with torch.no_grad():
        wanted = rounded(torch.tensor([list(TEXT)]))[0].numpy()
    for cut in (1, 4, len(TEXT)):
        known, rows = begin(model), []
        for start in range(0, len(TEXT), cut):
            row, known = advance(running, TEXT[start : start + cut], known)
            rows.append(row)
        np.testing.assert_allclose(np.concatenate(rows), wanted, atol=1e-4, rtol=0)


def test_a_file_says_what_it_is_and_int8_is_smaller(new_model: Callable) -> None:
    import onnx

    contents = [write_onnx(new_model(), {"bpb": 2.5, "corpus": "tests"}, one, frozenset()) for one in ("fp32", "int8")]
    made = onnx.load_model_from_string(contents[1])
    assert {entry.key: json.loads(entry.value) for entry in made.metadata_props} == {"bpb": 2.5, "corpus": "tests"}
    assert [(one.domain, one.version) for one in made.opset_import] == [("", 13)]
    assert len(contents[1]) < 0.6 * len(contents[0])


def operators(graph: Any) -> Iterator[str]:
    """Of a graph and of those within it."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from operators(attribute.g)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_build_of_onnx_runtime_has_every_operator(name: str, precision: str, new_model: Callable) -> None:
    import onnx

    made = onnx.load_model_from_string(write_onnx(plain(new_model(**MODELS[name])), {}, precision, frozenset()))
    assert set(operators(made.graph)) <= set(MOBILE.split())


def test_what_differs_is_refused(new_model: Callable) -> None:
    content = write_onnx(new_model(), {}, "fp32", frozenset())
    with pytest.raises(UserError, match="differ from Python's"):
        compare(content, new_model(seed=1))


def test_markers_and_strides_are_refused(new_model: Callable) -> None:
    for changes in ({"vocab": 260}, {"vocab": 260, "strides": "auto", "mixer": "state"}):
        with pytest.raises(UserError, match=r"models of bytes alone can be exported.*model\.vocab 260"):
            plain(new_model(**changes))
