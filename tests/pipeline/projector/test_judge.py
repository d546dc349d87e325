"""A core that is a known shift register is read back exactly, and its memory horizon is its length."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from h2q.config import BoundProjector, GrowthConfig, ModelConfig
from h2q.growth import RankGrowth
from h2q.projector import Projector
from pipeline.config import RunConfig, TrainingConfig
from pipeline.projector import report
from pipeline.projector.judge import Judgement, edits, judge
from pipeline.projector.judged import earlier
from pipeline.projector.lens import Depth
from pipeline.projector.step import make_step
from pipeline.runs.folder import RunFolder
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import setup_precision
from pipeline.training.step import Step
from pipeline.training.train_state import TrainState

CPU = torch.device("cpu")
AUTOCAST = setup_precision("fp32", CPU)
HELD = 4
"""Bytes that the shift register holds."""


class ShiftRegister:
    """A core whose state is the last 4 bytes, and whose numbers are their bits."""

    attends = False

    def to(self, device: torch.device) -> None:
        pass

    def new_state(self, lanes: int) -> Tensor:
        return torch.zeros(lanes, 1, 16)

    def moment(self, x: Tensor, state: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        held = torch.cat((state[:, 0, :HELD].long(), x), dim=1)[:, -HELD:]
        bits = (held[..., None] >> torch.arange(8)) & 1
        after = torch.zeros_like(state)
        after[:, 0, :HELD] = held.float()
        return 2.0 * bits.flatten(1).float() - 1, after


@dataclass
class Letters:
    """Text of random letters: nothing of it can be guessed."""

    data: np.ndarray

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.data[start:stop]


def letters(seed: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(97, 105, size, dtype=np.uint8)


def beginning(lanes: int, moments: int) -> tuple[Projector, Step]:
    """A new projector of the shift register, and its step."""
    core_model = ModelConfig(kind="dense", mixer="state", dim=16, depth=1, heads=2, factor=4, halves=False)
    bound = BoundProjector(core="", sha256="", core_model=core_model, last=8, next=1, rank=64, moments=moments)
    decoder = ModelConfig(
        kind="dense",
        mixer="state",
        dim=32,
        depth=1,
        heads=2,
        factor=4,
        halves=False,
        phase_rotation=False,
        dropout=0.0,
        seq_len=8,
    )
    training = TrainingConfig(lanes=lanes, horizon=4, learning_rate=1e-2, axiom_lambda=0.0)
    run = RunConfig(model=decoder, training=training, projector=bound)
    torch.manual_seed(0)
    model = Projector(decoder, bound)
    scaler = torch.amp.GradScaler("cpu", enabled=False)  # type: ignore[attr-defined]
    train_state = TrainState(
        model, build_optimizer(model, training), scaler, RankGrowth(GrowthConfig(), 0), about={}, rows=lanes
    )
    return model, make_step(train_state, model, ShiftRegister(), run, AUTOCAST)


@pytest.fixture(scope="module")
def judged() -> Judgement:
    model, step = beginning(16, 8)
    text = torch.from_numpy(letters(1, 16 * 33 * 300).reshape(300, 16, 33)).long()
    for chunk in text:
        step(chunk[:, :-1], chunk[:, 1:], detailed=False)
    return judge(model, ShiftRegister(), Letters(letters(2, 20_000)), AUTOCAST)


def test_what_a_shift_register_holds_is_read_back_exactly(judged: Judgement) -> None:
    assert judged.exact[:HELD] == [1.0] * HELD
    assert judged.all_exact[1] == 1.0 and judged.error_rate[1] == 0.0


def test_its_memory_horizon_is_its_length(judged: Judgement) -> None:
    recovered = judged.recovered()
    assert min(recovered[:HELD]) > 2.5  # of the 3 bits of one letter in eight
    assert max(recovered[HELD:]) < 0.2
    assert judged.half_point == HELD + 1


def test_controls_recover_nothing(judged: Judgement) -> None:
    for name in ("other position", "zero state"):
        assert max(judged.recovered(name)) < 0.2, name
    assert judged.recovered("reset") == pytest.approx(judged.recovered(), abs=0.05)  # it forgets sooner than that


@pytest.mark.parametrize(
    ("bits", "control"),
    [(-0.1, 0.0), (0.0, 0.0), (0.4, 0.0), (2.0, 2.1)],
    ids=["worse", "nothing", "noise", "no more than a control"],
)
def test_a_state_that_says_nothing_clear_has_no_horizon(judged: Judgement, bits: float, control: float) -> None:
    without = judged.last["without"]
    given = {"carried": [without[0] - bits, *without[1:]], "zero state": [without[0] - control, *without[1:]]}
    blind = replace(judged, last=judged.last | given)
    assert blind.half_point is None
    console = Console(file=io.StringIO(), width=100)
    report.show(blind, None, "blind", console)
    assert f"of the last byte {bits:+.2f} bits are recovered: less" in console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_are_whole_on_a_narrow_terminal(judged: Judgement) -> None:
    console = Console(file=io.StringIO(), width=60)
    report.show(judged, judged.recovered("reset"), "a name", console)
    report.show_lens([Depth(1, 2.5, 0.25)], console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    words = {
        "carried",
        "reset",
        "other",
        "position",
        "zero",
        "state",
        "untrained",
        "core",
        "without",
        "freely",
        "exact",
    }
    assert words <= set(told.split()) and "…" not in told
    assert all(len(line) <= 60 for line in told.splitlines() if line.startswith(("bytes", " ")))


@pytest.mark.parametrize("carried", [[4.0, 1.0, -0.28], [-0.5, -0.2, -0.1], [0.0, 0.0, 0.0]])
def test_the_picture_of_the_horizon_ends_near_what_it_shows(
    judged: Judgement, carried: list[float], tmp_path: Path
) -> None:
    with patch("matplotlib.figure.Figure.savefig", autospec=True) as saved:
        report._draw(judged, {"carried": carried}, tmp_path / "horizon.png", "a name")
    low, high = saved.call_args.args[0].axes[0].get_ylim()
    span = max(*carried, 0) - min(*carried, 0) or 1
    assert min(*carried, 0) - 0.1 * span < low < high < max(*carried, 0) + 0.1 * span


def test_the_control_is_shown_as_its_judgement_has_it(
    judged: Judgement, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert earlier(RunFolder(tmp_path)) is None
    depths = [Depth(1, 2.5, 0.25), Depth(2, 2.0, 0.0)]
    first, table, _, lens, _ = report.write(judged, judged.recovered("reset"), depths, {"name": "control"}, tmp_path)
    assert earlier(RunFolder(tmp_path)) == judged.recovered()
    assert "recovered: untrained core" in table.read_text()
    assert lens.read_text().splitlines() == ["block,bpb,divergence", "1,2.5,0.25", "2,2.0,0.0"]
    for damaged in ('{"recovered": {"carried": "much"}}', '{"recovered": {"carried": []}}', "{", "[]"):
        first.write_text(damaged)
        caplog.clear()
        assert earlier(RunFolder(tmp_path)) is None
        assert "judgement.json is damaged" in caplog.text and caplog.text.count("\n") == 1, damaged


def test_a_step_without_any_state_has_a_loss() -> None:
    _, step = beginning(1, 1)
    text = torch.from_numpy(letters(3, 33)).long()[None]
    losses = [step(text[:, :-1], text[:, 1:], detailed=False)["loss"] for _ in range(20)]
    assert torch.stack(losses).isfinite().all()


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [("abcd", "abcd", 0), ("abcd", "bcda", 2), ("aaaa", "bbbb", 4), ("abcd", "abxcd"[:4], 2)],
)
def test_edits_are_the_fewest(one: str, other: str, wanted: int) -> None:
    rows = [np.frombuffer(text.encode(), np.uint8)[None] for text in (one, other)]
    assert edits(*rows).tolist() == [wanted]
