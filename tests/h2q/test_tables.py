"""Tables of n-grams: a row is found by what was read, alike for tensors and bytes, and nothing reaches back in time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from h2q.errors import UserError
from h2q.ngrams import SYMBOLS, Ngrams, read_ngrams
from h2q.tables import NgramTables

MODELS = [
    {"mixer": "state"},
    {"mixer": "state", "ngrams": "2:50x4,5:60x4"},
    {"mixer": "attention", "ngrams": "2:50x4,5:60x4"},
    {"mixer": "both", "ngrams": "3:50x8", "feed_forward": False, "depth": 3},
    {"mixer": "state", "kind": "dense", "halves": False, "phase_rotation": False, "ngrams": "3:50x8"},
]


def numbered(*tables: Ngrams) -> NgramTables:
    """Tables whose rows hold their own numbers."""
    made = NgramTables(tables, 16)
    with torch.no_grad():
        for weight in made.weights:
            weight.copy_(torch.arange(len(weight))[:, None].expand_as(weight))
    return made


@given(data=st.binary(min_size=1, max_size=30))
def test_one_byte_at_a_time_finds_the_rows_of_all_at_once(data):
    tables = numbered(*(Ngrams(order, rows, 1) for order, rows in ((2, 300), (3, 1), (9, 4096), (20, 7919))))
    x = torch.tensor([list(data)])
    found, behind = tables(x, x.new_zeros(1, tables.context))
    symbols = [0] * tables.context + [byte + 1 for byte in data]
    for at, rows in enumerate(found[0].long().tolist()):
        assert tables.rows(symbols[at : at + tables.context + 1]) == rows[:4]
    assert behind[0].tolist() == symbols[-tables.context :]


def test_a_table_with_all_rows_has_no_collisions():
    [table] = read_ngrams("2:allx1")
    pairs = torch.cartesian_prod(torch.arange(SYMBOLS), torch.arange(256))
    made = numbered(table)
    found, _ = made(pairs[:, 1:], pairs[:, :1])
    assert table.rows == SYMBOLS**2 and len(found[..., 0].flatten().unique()) == len(pairs)


@pytest.mark.parametrize("carried", [False, True], ids=["from nothing", "carried"])
@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_probabilities_of_all_bytes_sum_to_one_and_no_later_byte_changes_an_earlier_one(lively, changes, carried):
    """Also behind a chunk whose state is carried, where the model has one."""
    model, x = lively(seq_len=16, **changes).eval(), torch.randint(256, (2, 16))
    with torch.no_grad():
        before = model(torch.randint(256, (2, 16)), state=model.new_state(2))[1] if carried else None

        def read(x):
            return model(x, state=before)[0] if carried else model(x)

        logits = read(x)
        torch.testing.assert_close(logits.double().softmax(-1).sum(-1), torch.ones(2, 16, dtype=torch.float64))
        for place in (1, 7, 15):
            other = x.clone()
            other[:, place:] = (x[:, place:] + 1 + torch.randint(255, (2, 16 - place))) % 256
            changed = read(other)
            assert torch.equal(changed[:, :place], logits[:, :place])
            assert not torch.equal(changed[:, place:], logits[:, place:])


@pytest.mark.parametrize(
    ("ngrams", "named"),
    [
        ("2", "must be tables as ORDER:ROWSxWIDTH"),
        ("2:10x4;3:10x4", "must be tables as ORDER:ROWSxWIDTH"),
        ("1:256x4", "2 to 64, got 1"),
        ("2:0x4", "ROWS are 1 to"),
        ("4:allx4", "ROWS are 1 to"),
        ("2:10x0", "WIDTH is at least 1"),
        ("40:10x2", "looks back 40 bytes"),
    ],
)
def test_tables_that_cannot_be_are_refused_in_one_line(lively, ngrams, named):
    with pytest.raises(UserError) as error:
        lively(ngrams=ngrams)
    assert named in str(error.value) and "\n" not in str(error.value)
