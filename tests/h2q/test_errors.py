"""What users are told."""

import pytest

from h2q.errors import UserError, first_line, require


def test_a_broken_rule_is_the_users_mistake_in_its_own_words():
    require(True, "never said")
    with pytest.raises(UserError, match=r"^dim must be even, got 3$"):
        require(False, "dim must be even, got 3")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("\n no space left\nTraceback: …"), "no space left"),
        (FileNotFoundError(2, "No such file", "a"), "[Errno 2] No such file: 'a'"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_an_error_is_shown_in_one_line_or_by_its_type(error, line):
    assert first_line(error) == line
