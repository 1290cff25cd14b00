"""True dictionaries: how long their rows are, and how far apart."""

import numpy as np
import pytest
import torch

from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.dictionaries import gaussian, orthogonalised
from sae_core.synthetic_config import SyntheticConfig


def cosines(rows):
    """Of different rows, float64."""
    rows = rows.double()
    return (rows @ rows.T).fill_diagonal_(0)


@pytest.mark.parametrize("make", [gaussian, orthogonalised])
@pytest.mark.parametrize(("d_gt", "d_in"), [(32, 16), (5, 8), (8, 8), (7, 1), (1, 4)])
def test_rows_have_unit_length(make, d_gt, d_in):
    rows = make(d_gt, d_in, np.random.default_rng(0))
    assert rows.shape == (d_gt, d_in)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.double().norm(dim=1), torch.ones(d_gt).double(), atol=1e-6)


def test_squared_cosines_of_gaussian_rows_are_beta_distributed():
    squares = cosines(gaussian(400, 10, np.random.default_rng(1)))[*torch.triu_indices(400, 400, 1)].square()
    # Beta(1/2, (d - 1)/2): mean 1/d, variance 2 (d - 1) / (d^2 (d + 2)); pairs are uncorrelated.
    sd = np.sqrt(2 * 9 / (100 * 12) / len(squares))
    assert float(squares.mean()) == pytest.approx(0.1, abs=5 * sd)
    assert float(squares.var()) == pytest.approx(2 * 9 / (100 * 12), rel=0.1)


@pytest.mark.parametrize(("d_gt", "d_in"), [(16, 16), (5, 12)])
def test_no_more_rows_than_dimensions_are_orthonormal(d_gt, d_in):
    assert float(cosines(orthogonalised(d_gt, d_in, np.random.default_rng(2))).abs().max()) < 1e-6


@pytest.mark.parametrize(("d_gt", "d_in"), [(16, 8), (32, 16), (32, 6), (33, 32), (32, 24), (9, 2), (6, 1), (200, 20)])
def test_squared_cosines_of_more_rows_add_up_to_little_more_than_any_dictionary_must_have(d_gt, d_in):
    bound = d_gt**2 / d_in - d_gt
    for seed in range(3):
        total = float(cosines(orthogonalised(d_gt, d_in, np.random.default_rng(seed))).square().sum())
        assert bound * (1 - 1e-5) <= total <= 1.05 * bound


def test_no_two_rows_stay_close():
    rng = np.random.default_rng(0)
    assert float(cosines(orthogonalised(32, 16, rng)).abs().max()) < 0.3
    # Three lines in a plane can be 60 degrees apart and no further; one row more than dimensions makes a simplex.
    assert float(cosines(orthogonalised(3, 2, rng)).abs().max()) == pytest.approx(0.5, abs=0.01)
    assert float(cosines(orthogonalised(5, 4, rng)).abs().max()) == pytest.approx(0.25, abs=0.01)


def test_the_seed_of_the_settings_decides_the_dictionary_and_threads_do_not():
    def made(seed, kind):
        return SyntheticData(SyntheticConfig(d_in=16, d_gt=32, k=3, seed=seed, dictionary=kind)).dictionary

    for kind in ("gaussian", "orthogonalised"):
        first = made(0, kind)
        torch.set_num_threads(2)
        assert torch.equal(made(0, kind), first)
        torch.set_num_threads(1)
        assert not torch.equal(made(1, kind), first)


@pytest.mark.parametrize("make", [gaussian, orthogonalised])
def test_sizes_must_be_positive(make):
    with pytest.raises(ValueError, match=r"at least one row and one column: got d_gt=3, d_in=0"):
        make(3, 0, np.random.default_rng(0))
