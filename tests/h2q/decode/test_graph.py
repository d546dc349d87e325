"""Decoding at fixed places on the device: the logits of the full forward pass, the bytes that the host would draw."""

from dataclasses import replace
from random import Random

import pytest
import torch

from h2q.config import ModelConfig, SamplingConfig
from h2q.decode.cache import Recomputing, decoder
from h2q.decode.draw import draw
from h2q.decode.graph import Replayed, Writer
from h2q.decode.static import StaticDecoder
from h2q.errors import UserError
from h2q.generate import generate_batch, sample, slide, stream
from h2q.model import ByteModel

SMALL = {"dim": 64, "depth": 2, "heads": 2, "factor": 8, "fixed_rank": 3, "seq_len": 12, "dropout": 0.5}

VARIANTS = [
    {},
    {"phase_rotation": False},
    {"halves": False, "phase_rotation": False, "dim": 32},
    {"ngrams": "2:50x30,4:40x5"},
    {"ngrams": "14:50x8", "feed_forward": False, "depth": 3},
    {"kind": "dense", "halves": False, "tied_embeddings": False, "final_norm": False},
    {"kind": "dense", "ffn_expansion": 2},
    {"init": "published", "final_norm": False, "tied_embeddings": False},
    {"memory": "reversible", "max_rank": 4},
    {"seq_len": 1},
    {"seq_len": 2},
    {"positions": "relative"},
    {"positions": "none"},
]

CUTS = [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 5}, {"top_p": 0.7, "min_p": 0.02}]


def lively(changes: dict, dtype: torch.dtype = torch.float64) -> ByteModel:
    """A model in which no parameter is zero, so that every path carries something."""
    torch.manual_seed(0)
    model = ByteModel(ModelConfig(**{**SMALL, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.15) if "norm" not in name else parameter.add_(torch.randn_like(parameter) / 4)
    return model.to(dtype)


def contexts(window: int, count: int) -> list[bytes]:
    """What generation asks for: one byte more at a time, sliding when the window is full."""
    context = bytes(torch.randint(256, (min(3, window),)).tolist())
    asked = [context]
    for byte in torch.randint(256, (count,)).tolist():
        context = slide(context, window) + bytes((byte,))
        asked.append(context)
    return asked


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_are_those_of_the_full_forward_across_slides(changes):
    model = lively(changes)
    window = model.config.seq_len
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        naive, replayed = Recomputing(model.to(dtype)), Replayed(model)
        for context in contexts(window, 2 * window):
            torch.testing.assert_close(replayed(context), naive(context), rtol=tolerance, atol=tolerance)


def test_any_context_may_follow_any_other():
    naive, replayed = Recomputing(lively({})), Replayed(lively({}))
    for context in (b"abcd", b"abcde", b"abcde", b"abcdX", b"abcdXY", b"Z", b"ZY", b"abcd", b"abcdef", b"bcdefg"):
        torch.testing.assert_close(replayed(context), naive(context), rtol=1e-10, atol=1e-10)


def test_streams_in_step_do_not_see_each_other():
    model = lively({})
    batch, naive = StaticDecoder(model, 3), Recomputing(model)
    with torch.inference_mode():
        batch.window.copy_(torch.randint(256, batch.window.shape))
        batch.fill(2)
    for length in range(2, 13):
        rows = batch.window[:, :length].tolist()
        wanted = torch.stack([naive(bytes(row)) for row in rows])
        torch.testing.assert_close(batch.logits, wanted, rtol=1e-10, atol=1e-10)
        with torch.inference_mode():
            batch.position.fill_(min(length, 11))
            batch.step()


def test_half_precision_stays_near():
    model = lively({}, torch.float32)
    exact, near = StaticDecoder(model, 2), StaticDecoder(model, 2, torch.bfloat16)
    for one in (exact, near):
        with torch.inference_mode():
            one.fill(3)
            one.position.add_(1)
            one.step()
    assert near.logits.dtype == torch.float32
    torch.testing.assert_close(near.logits, exact.logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("cut", CUTS)
def test_each_row_is_drawn_as_the_host_draws_it(cut):
    torch.manual_seed(1)
    logits, numbers = 3 * torch.randn(200, 30, dtype=torch.float64), torch.rand(200, dtype=torch.float64)
    wanted = [sample(row, SamplingConfig(**cut), _Fixed(number)) for row, number in zip(logits, numbers.tolist())]
    assert draw(logits, SamplingConfig(**cut), numbers).tolist() == wanted


class _Fixed(Random):
    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_draw_no_byte(cut, value):
    logits = torch.zeros(3, 8)
    logits[1, 4] = value
    drawn = draw(logits, SamplingConfig(**cut), torch.full((3,), 0.5, dtype=torch.float64)).tolist()
    assert drawn[1] == 8 and max(drawn[0], drawn[2]) < 8


@pytest.mark.parametrize("length_of_prompts", [1, 11, 12, 30])
@pytest.mark.parametrize("cut", CUTS)
def test_streams_written_together_are_those_written_alone(length_of_prompts, cut):
    model, config = lively({}), SamplingConfig(seed=5, **cut)
    prompts = [bytes(torch.randint(256, (length_of_prompts,)).tolist()) for _ in range(2)]
    alone = [
        bytes(stream(model, prompt, 25, replace(config, seed=5 + i), next_logits=Recomputing(model)))
        for i, prompt in enumerate(prompts)
    ]
    assert generate_batch(model, prompts, 25, config) == alone
    assert generate_batch(model, prompts, 0, config) == [b""] * 2 and generate_batch(model, [], 5, config) == []


@pytest.mark.parametrize("window", [1, 2, 3, 12])
def test_a_stream_comes_in_pieces_of_any_length(window):
    model = lively({"seq_len": window})
    alone = bytes(stream(model, b"abc", 40, SamplingConfig()))
    for length in (1, 2, 7, 40):
        pieces = list(Writer(model, 1, SamplingConfig()).write([b"abc"[-window:]], length, [Random(0)]))
        assert pieces[0].shape == (1, 1)
        assert bytes(torch.cat(pieces, dim=1)[0].tolist()) == alone[:length]


def test_prompts_of_two_lengths_are_refused():
    with pytest.raises(UserError, match="one length, got 2 and 3"):
        generate_batch(lively({}), [b"ab", b"abc"], 4, SamplingConfig())
    with pytest.raises(UserError, match="head layout"):
        generate_batch(lively({"head_layout": "published"}), [b"ab"], 4, SamplingConfig())


def test_a_model_that_diverged_is_named():
    model = lively({})
    with torch.no_grad():
        model.head.bias[7] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        generate_batch(model, [b"ab", b"cd"], 4, SamplingConfig())


gpu = pytest.mark.gpu


@gpu
@pytest.mark.parametrize("changes", VARIANTS)
def test_a_gpu_gives_the_logits_of_the_cpu(changes):
    model = lively(changes)
    window = model.config.seq_len
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        naive = Recomputing(model.cpu().to(dtype))
        asked = contexts(window, 3 * window)
        wanted = [naive(context) for context in asked]
        model.cuda()
        for replayed in (decoder(model), Replayed(model, fused=False)):
            assert isinstance(replayed, Replayed)
            for context, logits in zip(asked, wanted):
                torch.testing.assert_close(replayed(context).cpu(), logits, rtol=tolerance, atol=tolerance)


@gpu
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("streams", [1, 3, 20])
def test_a_replayed_graph_is_the_eager_step(fused, dtype, streams):
    model, config = lively({}, torch.float32).cuda(), SamplingConfig(temperature=0.0)
    prompts = [bytes((i, 2 * i)) for i in range(streams)]
    writer = Writer(model, streams, config, dtype, fused=fused)
    eager = Writer(model, streams, config, dtype, fused=fused)
    eager._step, eager._slide = eager._advance, eager._slid
    randoms = [[Random(i) for i in range(streams)] for _ in range(2)]
    graph, plain = (
        torch.cat(list(one.write(prompts, 40, numbers)), 1) for one, numbers in zip((writer, eager), randoms)
    )
    assert torch.equal(graph, plain)


@gpu
@pytest.mark.parametrize("cut", CUTS)
def test_a_gpu_writes_the_bytes_of_the_cpu(cut):
    model, config = lively({}), SamplingConfig(seed=5, **cut)
    prompts = [bytes((i, 2 * i, 3 * i)) for i in range(11)]
    wanted, first = generate_batch(model, prompts, 50, config), bytes(stream(model, prompts[0], 50, config))
    model.cuda()
    assert generate_batch(model, prompts, 50, config) == wanted
    assert bytes(stream(model, prompts[0], 50, config)) == first == wanted[0]


@gpu
@pytest.mark.parametrize("streams", [2, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_the_fused_kernels_are_the_plain_operations(streams, dtype, tolerance):
    model = lively({"dim": 192, "heads": 4, "seq_len": 200}, torch.float32).cuda()
    both = [StaticDecoder(model, streams, dtype, fused=fused) for fused in (True, False)]
    assert both[0].kernels is not None
    drawn = torch.randint(256, both[0].window.shape, device="cuda")
    for one in both:
        with torch.inference_mode():
            one.window.copy_(drawn)
            one.fill(150)
            for position in (150, 151, 199):
                one.position.fill_(position)
                one.step()
    torch.testing.assert_close(both[0].logits, both[1].logits, rtol=tolerance, atol=tolerance)
