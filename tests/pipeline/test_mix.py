"""The option of a mix: what it says, and what it refuses."""

from dataclasses import replace

import pytest

from h2q.errors import UserError
from pipeline.config import PRESETS, CorpusConfig
from pipeline.mix import Part, read_mix, shown_mix


def test_a_mix_names_kinds_places_and_lanes() -> None:
    text = "text=a,b@2/c@16,image=hub:some/set:small@main@4,bytes=s3://bucket/x@4,audio=embedded@1"
    assert read_mix(text) == (
        Part("text", "a,b@2/c", 16),
        Part("image", "hub:some/set:small@main", 4),
        Part("bytes", "s3://bucket/x", 4),
        Part("audio", "embedded", 1),
    )
    assert read_mix(" text = a b@1 , image=c@2 ") == (Part("text", "a b", 1), Part("image", "c", 2))
    assert shown_mix(text) == text and read_mix("") == () and shown_mix("") == ""


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("text", "corpus.mix must be KIND=WHERE@LANES .*got 'text'"),
        ("text=folder", "corpus.mix must be"),
        ("text=@4", "corpus.mix must be"),
        ("text=folder@0", "corpus.mix must be"),
        ("text=folder@four", "corpus.mix must be"),
        ("text=a@1,", "corpus.mix must be"),
        ("text=a@99999999999999999999", "corpus.mix must be"),
        ("text=a@٣", "corpus.mix must be"),
        ("text=a@1,picture=b@1", "a kind in corpus.mix must be one of text, bytes, image, audio, got 'picture'"),
        ("text=a@1,text=b@1", "each kind once, got text twice"),
        ("bytes=embedded@4", "nothing embedded of kind bytes"),
    ],
)
def test_what_is_no_mix_is_one_line(mix: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        CorpusConfig(mix=mix)


@pytest.mark.parametrize("other", [{"path": "x"}, {"hub": "x"}, {"source": "manual"}, {"kind": "bytes"}], ids=str)
def test_a_mix_leaves_no_room_for_another_source(other: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"leave out --corpus.{next(iter(other))}, got {next(iter(other.values()))}"):
        CorpusConfig(mix="text=a@1", **other)  # type: ignore[arg-type]


def test_lanes_are_the_sum_of_those_of_the_kinds() -> None:
    laptop = PRESETS["laptop"]
    mix = CorpusConfig(mix="text=a@6,image=b@3")
    with pytest.raises(UserError, match=r"corpus.mix, 6 \+ 3 = 9, got 8: give --training.lanes 9"):
        replace(laptop, corpus=mix)
    assert replace(laptop, corpus=mix, training=replace(laptop.training, lanes=9)).corpus.marked
