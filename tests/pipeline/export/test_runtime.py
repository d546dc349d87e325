"""The runtime in C computes what Python does: logits, texts, states that go on in either."""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from h2q.config import SamplingConfig
from h2q.decode.cache import decoder
from h2q.decode.session import Session
from h2q.generate import Memory, generate, slide, stream
from h2q.growth import grow
from h2q.model import ByteModel
from pipeline.export.model_file import read_model, write_model
from pipeline.export.parts import plain
from pipeline.export.state_file import read_session, read_window, write_session, write_window

PLACE = Random(5).randbytes(45)
"""Bytes longer than two windows."""

MODELS: dict[str, dict[str, Any]] = {
    "attention": {},
    "one stream": {"halves": False, "phase_rotation": False},
    "relative": {"positions": "relative", "phase_rotation": False},
    "orderless": {"positions": "none"},
    "untied, no final norm": {"tied_embeddings": False, "final_norm": False},
    "state": {"mixer": "state"},
    "phase": {"mixer": "state", "rotation": "phase"},
    "quaternion": {"mixer": "state", "rotation": "quaternion", "halves": False},
    "both": {"mixer": "both"},
    "both, turning": {"mixer": "both", "rotation": "quaternion", "seq_len": 5},
    "dense": {"kind": "dense", "ffn_expansion": 3},
    "dense state": {"kind": "dense", "mixer": "state", "halves": False},
    "built": {"factor": 2, "fixed_rank": 7},
    "odd sizes": {"dim": 88, "factor": 11, "vocab": 200, "heads": 1, "fixed_rank": 1, "seq_len": 7},
    "leapfrog": {"mixer": "state", "feed_forward": False, "depth": 3},
    "tables": {"mixer": "state", "ngrams": "2:97x8,3:101x4,5:64x3"},
    "tables of a window": {"ngrams": "2:allx3,7:50x8", "feed_forward": False, "seq_len": 6},
    "per block": {"factors": "per-block"},
    "low rank": {"kind": "low_rank", "mixer": "both"},
    "btt": {"kind": "btt"},
    "phm": {"kind": "phm", "mixer": "state"},
    "monarch": {"kind": "monarch", "factor": 8},
}


PIPES: dict[str, Any] = {"capture_output": True, "check": False}

MORE, FEW = ("relative", "dense"), ("attention", "both", "low rank", "tables")


def logits_of(model: ByteModel) -> Callable[[bytes], torch.Tensor]:
    """The logits after a text that is read from its beginning, whatever the mixer."""
    if model.config.carries:
        session = Session(model)
        return lambda text: session.read(text[-1:])
    return decoder(model)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "fp32") for name in MODELS),
        *(pytest.param(name, "int8", marks=() if name in FEW else pytest.mark.ray) for name in MODELS),
    ],
)
def test_logits_are_those_of_python(
    name: str, precision: str, new_model: Callable, open_c: Callable, tmp_path: Any
) -> None:
    content = write_model(plain(new_model(**MODELS[name])), {}, precision)
    (tmp_path / "m").write_bytes(content)
    model = new_model(**MODELS[name]) if precision == "fp32" else read_model(tmp_path / "m")[0]
    after, context, vocab = logits_of(model), b"", model.config.vocab
    with open_c(content) as found:
        for byte in PLACE:
            context = context if model.config.carries else slide(context, model.config.seq_len)
            context += bytes((byte % vocab,))
            wanted = after(context).numpy()
            np.testing.assert_allclose(found.step(byte % vocab), wanted, atol=1e-4, rtol=0)
            assert np.ptp(wanted) > 0.5


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["both", "dense", "built", "odd sizes"])
def test_this_processor_computes_what_any_does(
    name: str, precision: str, new_model: Callable, open_c: Callable, open_native: Callable
) -> None:
    model = new_model(**MODELS[name])
    content, symbols = write_model(model, {}, precision), [byte % model.config.vocab for byte in PLACE]
    with open_c(content) as one, open_native(content) as other:
        for symbol in symbols:
            np.testing.assert_allclose(other.step(symbol), one.step(symbol), atol=1e-4, rtol=0)


TOLD = {"bpb": 2.5, "data": "caf\udce9.txt"}  # as Python has a name that is not UTF-8


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_read_back_as_it_was_written(name: str, new_model: Callable, tmp_path: Any) -> None:
    model = plain(new_model(**MODELS[name]))
    (tmp_path / "m").write_bytes(write_model(model, TOLD, "fp32"))
    back, told = read_model(tmp_path / "m")
    assert told == TOLD
    x = torch.tensor([list(PLACE[: model.config.seq_len])]) % model.config.vocab
    torch.testing.assert_close(back(x), model(x), atol=0, rtol=0)
    again = write_model(back, TOLD, "fp32")
    assert again == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(
    "name", ["attention", "state", "both, turning", *(pytest.param(name, marks=pytest.mark.ray) for name in MORE)]
)
def test_a_thousand_greedy_bytes_are_those_of_python(name: str, new_model: Callable, open_c: Callable) -> None:
    model = new_model(**MODELS[name])
    wanted = generate(model, b"The ", 1000, temperature=0)
    with open_c(write_model(model, {}, "fp32")) as found:
        found.read(b"The ")
        assert found.write(1000) == wanted


@pytest.mark.parametrize("where", ["ffn", "all"])
def test_a_grown_model_is_exported_at_the_rank_it_reached(where: Any, new_model: Callable, open_c: Callable) -> None:
    model = new_model(max_rank=4)
    small = len(write_model(model, {}, "fp32"))
    grow(model, where)
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if name.endswith("factors")):
            parameter[2] += 0.3 * torch.randn_like(parameter[2])
    content = write_model(model, {}, "fp32")
    assert len(content) > small
    with open_c(content) as found:
        wanted = decoder(model)(b"The rank").numpy()
        np.testing.assert_allclose(found.read(b"The rank"), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["attention", "relative", "tables of a window"])
def test_a_window_goes_on_in_the_other(name: str, new_model: Callable, open_c: Callable) -> None:
    model, greedy = new_model(**MODELS[name]), SamplingConfig(temperature=0)
    content = write_model(model, {}, "fp32")
    wanted = generate(model, PLACE[:9], 60, temperature=0)
    with open_c(content) as first, open_c(content) as second:
        first.read(PLACE[:9])
        assert first.write(20) == wanted[:20]
        context = read_window(first.saved(), content[-32:])
        # Python slides before it takes a byte, the runtime likewise: a full window is one state.
        assert bytes(stream(model, context, 10, greedy)) == wanted[20:30]
        assert second.restore(write_window(context, content[-32:])) == 0
        assert second.write(40) == wanted[20:] == first.write(40)


@pytest.mark.parametrize("name", ["state", "both", "both, turning", "tables"])
def test_a_state_goes_on_in_the_other(name: str, new_model: Callable, open_c: Callable) -> None:
    model, greedy = new_model(**MODELS[name]), SamplingConfig(temperature=0)
    content = write_model(model, {}, "fp32")
    wanted = generate(model, PLACE[:23], 60, temperature=0)
    here = Session(model)
    here.read(PLACE[:23])
    with open_c(content) as there, open_c(content) as another:
        assert there.restore(write_session(model, here, content[-32:])) == 0
        assert there.write(30) == wanted[:30]
        saved = there.saved()
        assert another.restore(saved) == 0 and another.saved() == saved
        np.testing.assert_array_equal(another.energy(), there.energy())
        assert another.write(30) == wanted[30:]
        back = Memory(model, 0)
        logits = read_session(model, back.session, saved, content[-32:])
        first = int(logits.argmax())
        back.unread = bytes((first,))
        assert bytes((first, *stream(model, b"", 29, greedy, memory=back))) == wanted[30:]


def test_a_state_of_another_model_or_a_damaged_one_is_refused(new_model: Callable, open_c: Callable) -> None:
    content, other = (write_model(new_model(seed, mixer="both"), {}, "fp32") for seed in (0, 1))
    with open_c(content) as found, open_c(other) as foreign:
        before = found.read(PLACE[:7])
        saved = found.saved()
        foreign.read(PLACE[:7])
        nan = saved[:40] + np.float32("nan").tobytes() + saved[44:]
        late = saved[:16] + (999).to_bytes(4, "little") + saved[20:]
        for wrong in (foreign.saved(), saved[:-4], saved + b"0000", b"", saved[:19], nan, late, b"x" + saved[1:]):
            assert found.restore(wrong) != 0
        np.testing.assert_array_equal(found.logits(), before)
        assert found.restore(saved) == 0


def test_the_energy_is_the_norm_of_the_state_or_of_the_stream(new_model: Callable, open_c: Callable) -> None:
    model = new_model(mixer="state")
    session = Session(model)
    session.read(PLACE)
    with open_c(write_model(model, {}, "fp32")) as found:
        found.read(PLACE)
        np.testing.assert_allclose(found.energy(), session.state.norm(dim=-1).numpy(), rtol=1e-4)
    model = new_model()
    x = torch.tensor([list(PLACE[:1])])
    with open_c(write_model(model, {}, "fp32")) as found:
        found.read(PLACE[:1])
        np.testing.assert_allclose(found.energy(), model(x, energy=True)[1].numpy(), rtol=1e-4)


def test_bytes_are_drawn_as_often_as_they_are_likely(new_model: Callable, open_c: Callable) -> None:
    import ctypes

    model = new_model(vocab=7)
    with open_c(write_model(model, {}, "fp32")) as found:
        found.step(3)
        random, counts = ctypes.c_uint64(1), np.zeros(7)
        for _ in range(4000):
            counts[found.call("sample", ctypes.c_float(0.7), ctypes.byref(random))] += 1
        wanted = torch.tensor(found.logits() / 0.7).softmax(0).numpy()
        np.testing.assert_allclose(counts / 4000, wanted, atol=0.03)
        assert found.call("step", 7) != 0


@pytest.mark.parametrize("name", ["attention", "state"])
def test_the_program_writes_leaves_off_goes_on_and_scores(
    name: str, new_model: Callable, binary: Path, tmp_path: Any
) -> None:
    model = new_model(**MODELS[name])
    (tmp_path / "m").write_bytes(write_model(model, {}, "fp32"))

    def run(*options: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run([binary, "m", *options], cwd=tmp_path, input=stdin, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    wanted, greedy = generate(model, b"The ", 40, temperature=0), ("--temperature", "0", "--length")
    assert run("--prompt", "The ", *greedy, "40") == wanted
    written = run("--prompt", "The ", "--to", "state", *greedy, "15")
    assert written + run("--from", "state", *greedy, "25") == wanted
    text, after = PLACE[: model.config.seq_len], logits_of(model)
    logits = torch.stack([after(text[:end]) for end in range(1, len(text))])
    bits = 8 - logits.log_softmax(-1)[range(len(text) - 1), list(text[1:])].sum().item() / np.log(2)
    assert run("--score", stdin=text).startswith(b"%d bytes, %.4f bits per byte, " % (len(text), bits / len(text)))
    run("--prompt", "The ", "--to", "state", *greedy, "5")
    after, read = logits_of(model), b"The " + wanted[:5]
    logits = [after(read[:end]) for end in range(1, len(read) + 1)][-1]
    bits = -logits.log_softmax(-1)[wanted[5]].item() / np.log(2)
    assert run("--score", "--from", "state", stdin=wanted[5:6]).startswith(b"1 byte, %.4f bits per byte, " % bits)


@pytest.fixture
def program(new_model: Callable, binary: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs the program in a folder with a model `m` and a text `t`."""
    (tmp_path / "m").write_bytes(write_model(new_model(mixer="state"), {}, "fp32"))
    (tmp_path / "t").write_bytes(b"a text")
    return lambda *options, **more: subprocess.run([binary, *options], cwd=tmp_path, **{**PIPES, **more})


def test_what_a_caller_got_wrong_is_one_line(program: Callable, tmp_path: Path) -> None:
    whole = [
        (name, value) for name in ("--length", "--seed") for value in ("abc", "", "-1", "0x10", "1e3", "5x", "2.5")
    ]
    parts = [("--temperature", value) for value in ("nan", "-1", "0,8", "", "inf", ".", "1.2.3")]
    number = "must be a {} from 0 to 9007199254740992, not '{}'"
    model, before = (tmp_path / "m").read_bytes(), set(tmp_path.iterdir())
    for options, why in (
        *((("m", *one), number.format("whole number", one[1])) for one in [*whole, ("--seed", "18446744073709551616")]),
        *((("m", *one), number.format("number such as 0.8,", one[1])) for one in parts),
        ((), "h2q --help"),
        (("nothing",), "No such file or directory; give a file of jobs/export.py --format h2q"),
        ((".",), "cannot be read"),
        (("t",), "not a model"),
        (("m", "--x", "1"), "h2q --help"),
        (("m", "--to"), "needs a value"),
        (("m", "--from", "t"), "saved with this very file"),
        *((("m", "--to", path), "holds no state") for path in ("m", "./m", "t", ".", "/dev/null")),
        *((("m", "--score", name, "1"), "--score ignores it") for name in ("--prompt", "--length")),
        (("m", "--score"), "holds no byte"),
    ):
        done = program(*options, input=b"")
        assert (done.returncode, done.stdout) == (2, b"")
        error = done.stderr.decode()
        assert why in error and error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1
    assert (tmp_path / "m").read_bytes() == model and set(tmp_path.iterdir()) == before
    told = program("--help")
    assert (told.returncode, told.stderr) == (0, b"") and b"h2q MODEL --score" in told.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [("m", "--length", "5"), ("m", "--score"), ("--help",)], ids=str)
def test_output_that_is_lost_is_an_error(options: tuple[str, ...], program: Callable) -> None:
    with open("/dev/full", "wb") as full:
        done = program(*options, input=b"a text", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith(b"error: standard output: cannot be written")


def test_a_state_that_cannot_be_written_leaves_the_one_before(program: Callable, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))

    for _ in range(2):  # a state takes the place of a state
        assert program("m", "--length", "3", "--to", "state").returncode == 0
    before, names = (tmp_path / "state").read_bytes(), set(tmp_path.iterdir())
    done = program("m", "--length", "9", "--to", "state", preexec_fn=small_files, restore_signals=False)
    assert done.returncode == 2 and b"state: cannot be written" in done.stderr
    assert len(done.stdout) == 10 and done.stdout.endswith(b"\n")  # the text, and the error on a line of its own
    assert (tmp_path / "state").read_bytes() == before and set(tmp_path.iterdir()) == names
    assert program("m", "--to", "nowhere/state").returncode == 2
