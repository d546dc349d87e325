"""What a run carries: its best validation."""

from pipeline.training.train_state import Counters


def test_the_best_validation_is_a_number_and_the_lowest() -> None:
    counters = Counters()
    for step, bpb in enumerate((float("inf"), 4.0, float("nan"), 5.0, float("-inf"), 3.0)):
        counters.step = step
        counters.improves(bpb)
    assert counters.best == {"step": 5, "bpb": 3.0}
