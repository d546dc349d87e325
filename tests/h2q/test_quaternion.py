"""Quaternion laws."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h2q.quaternion import hamilton_matrix, hamilton_product

seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_units_multiply_as_hamilton_carved_them():
    one, i, j, k = torch.eye(4)
    for p, q, expected in ((i, j, k), (j, k, i), (k, i, j), (j, i, -k), (i, i, -one), (one, k, k)):
        assert torch.equal(hamilton_product(p, q), expected)


@given(seeds)
def test_norms_multiply(seed):
    p, q = draw(seed, 2, 50, 4)
    torch.testing.assert_close(hamilton_product(p, q).norm(dim=-1), p.norm(dim=-1) * q.norm(dim=-1))


@given(seeds)
def test_matrices_multiply_as_quaternions_do(seed):
    """H(p) H(q) = H(pq), and H(p) q = pq."""
    p, q = draw(seed, 2, 4)
    hp, hq, hpq = (hamilton_matrix(x.view(4, 1, 1)) for x in (p, q, hamilton_product(p, q)))
    torch.testing.assert_close(hp @ hq, hpq)
    torch.testing.assert_close(hp @ q, hamilton_product(p, q))


@settings(max_examples=20)
@given(seeds, st.integers(1, 5))
def test_matrix_components_multiply_as_numbers_do(seed, size):
    """The same law with s × s matrices as components, which do not commute."""
    p, q = draw(seed, 2, 4, size, size)
    (a, b, c, d), (e, f, g, h) = p, q
    product = torch.stack(
        (
            a @ e - b @ f - c @ g - d @ h,
            a @ f + b @ e + c @ h - d @ g,
            a @ g - b @ h + c @ e + d @ f,
            a @ h + b @ g - c @ f + d @ e,
        )
    )
    torch.testing.assert_close(hamilton_matrix(p) @ hamilton_matrix(q), hamilton_matrix(product))


def test_there_are_4_s_squared_independent_hamilton_matrices():
    matrices = hamilton_matrix(draw(0, 40, 4, 3, 3)).flatten(1)
    assert torch.linalg.matrix_rank(matrices) == 36
