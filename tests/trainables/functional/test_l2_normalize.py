"""L2 normalization of usual, short and zero vectors."""

import pytest
import torch

from trainables.functional.l2_normalize import SHORTEST, l2_normalize


def test_vectors_get_length_one_along_the_dimension() -> None:
    values = torch.tensor([[3.0, 4.0], [-6.0, 8.0]])
    expected = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    torch.testing.assert_close(l2_normalize(values), expected)
    torch.testing.assert_close(l2_normalize(values.T, dim=0), expected.T)


@pytest.mark.parametrize("length", [2 * SHORTEST, SHORTEST, SHORTEST / 4, 0.0])
def test_a_short_vector_is_divided_by_a_constant(length: float) -> None:
    values = torch.tensor([[0.0, length]], dtype=torch.float64, requires_grad=True)
    unit = l2_normalize(values)
    assert float(unit.detach().norm()) == pytest.approx(min(1.0, length / SHORTEST))
    unit.sum().backward()
    assert values.grad is not None
    assert float(values.grad.abs().max()) <= 1 / SHORTEST * (1 + 1e-9)
