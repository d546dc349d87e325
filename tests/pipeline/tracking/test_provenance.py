"""What is noted of a run's origin."""

from pipeline.tracking.provenance import flatten


def test_nested_options_are_parameters_by_their_path() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
