"""The selection of codes, held equal to sorting all pre-activations; the products behind it, to torch."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from sae_core import encoder_products as products
from sae_core.kernel_options import torch_threads
from sae_core.training import candidates, coarse_kernels, codes
from sae_core.training.bit_masks import WIDTH, lowest_bit, mask_reaching
from sae_core.training.coarse import CoarsePreActivations

coarse_or_not = pytest.mark.parametrize("coarse", [False, True])


@pytest.fixture
def fast_int8(coarse, monkeypatch):
    """The product of integers computes the same on every processor, only not fast."""
    monkeypatch.setattr(products, "has_fast_int8", lambda: coarse)
    monkeypatch.setattr(codes, "CHUNK", 4)


def of_whole_numbers(seed, batch, d_sae, shift=0, size=3):
    """An encoder whose pre-activations are whole numbers, exact in every order of summation, with many ties."""
    rng = np.random.default_rng(seed)
    centred, rows = (rng.integers(-size, size + 1, (n, 7)) for n in (batch, d_sae))
    bias = rng.integers(-2, 3, d_sae) + shift
    pre = centred @ rows.T + bias
    return [torch.tensor(values, dtype=torch.float32) for values in (centred, rows, bias)], pre


def first_largest(pre, n):
    """Places of the n largest positive entries of a flat array, of equal ones the first, ascending."""
    order = np.argsort(-pre, kind="stable")[:n]
    return np.sort(order[pre[order] > 0])


def flat(found, d_sae):
    """Places and values of codes in the flattened matrix of pre-activations, in the order they are held."""
    runs = list(zip(found.start, found.end, strict=True))
    features = [found.feature[start:end].astype(np.int64) + b * d_sae for b, (start, end) in enumerate(runs)]
    return np.concatenate(features), np.concatenate([found.value[start:end] for start, end in runs])


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("d_sae", "k"), [(2, 1), (9, 3), (70, 64), (300, 1), (300, 5), (300, 40)])
def test_the_largest_of_each_token_are_selected_also_among_ties(seed, d_sae, k):
    encoder, pre = of_whole_numbers(seed, 9, d_sae, shift=[0, -12, 5][seed % 3])
    places, values = flat(codes.largest(*encoder, k), d_sae)
    expected = np.concatenate([first_largest(row, k) + b * d_sae for b, row in enumerate(pre)])
    assert np.array_equal(places, expected)
    assert np.array_equal(values, pre.ravel()[expected])


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("d_sae", "n"), [(2, 3), (9, 1), (70, 100), (300, 5), (300, 200), (300, 2699)])
def test_the_largest_of_a_batch_are_selected_also_among_ties(seed, d_sae, n):
    encoder, pre = of_whole_numbers(seed, 9, d_sae, shift=[0, -12, 5][seed % 3])
    places, values = flat(codes.largest_of_batch(*encoder, n), d_sae)
    expected = first_largest(pre.ravel(), n)
    assert np.array_equal(places, expected)
    assert np.array_equal(values, pre.ravel()[expected])


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize("guess", [candidates.POSITIVE, 4.0, 9.0, 1e30])
@pytest.mark.parametrize("n", [5, 40, 300])
def test_the_largest_of_a_batch_do_not_depend_on_the_guess(guess, n, monkeypatch):
    encoder, pre = of_whole_numbers(0, 21, 90)
    bits = guess if isinstance(guess, int) else int(np.float32(guess).view(np.int32))
    monkeypatch.setattr(candidates.Chunk, "guess", lambda self, per_token: bits)
    assert np.array_equal(flat(codes.largest_of_batch(*encoder, n), 90)[0], first_largest(pre.ravel(), n))


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize("shift", [0, -12, -100])
@pytest.mark.parametrize("listed", [0.0, 1.0])
def test_all_positive_pre_activations_are_found(shift, listed, monkeypatch):
    """Also where a chunk has too many to compute them one by one."""
    monkeypatch.setattr(codes, "DENSE_SHARE", 1.0)
    monkeypatch.setattr(candidates, "LISTED_SHARE", listed)
    encoder, pre = of_whole_numbers(1, 21, 90, shift)
    places, values = flat(codes.positive(*encoder), 90)
    assert np.array_equal(places, np.flatnonzero(pre > 0))
    assert np.array_equal(values, pre[pre > 0])


def test_chunks_with_many_and_with_few_candidates_may_follow_each_other(monkeypatch):
    monkeypatch.setattr(products, "has_fast_int8", lambda: True)
    monkeypatch.setattr(codes, "CHUNK", 4)
    monkeypatch.setattr(codes, "DENSE_SHARE", 1.0)
    encoder, pre = of_whole_numbers(1, 12, 90, shift=-12)
    encoder[0][4:8] = 0
    encoder[2] += torch.where(torch.arange(90) < 50, 13, 0)
    encoder[0][:4, 0], encoder[0][8:, 0] = -50, -50
    pre = (encoder[0] @ encoder[1].T + encoder[2]).numpy()
    places, values = flat(codes.positive(*encoder), 90)
    assert np.array_equal(places, np.flatnonzero(pre > 0))
    assert np.array_equal(values, pre[pre > 0])


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
def test_where_most_are_positive_there_are_no_codes(monkeypatch):
    encoder, _ = of_whole_numbers(1, 21, 90, shift=50)
    assert codes.positive(*encoder) is None
    monkeypatch.setattr(codes, "DENSE_SHARE", 1.0)
    assert len(codes.positive(*encoder).value) == 21 * 90


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 2**31), st.floats(-1, 1), st.sampled_from([0.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_coarse_pre_activations_lead_to_the_exact_choice(n, k, seed, shift, spread):
    """Also when many are closer together than coarse ones can tell, columns differ a lot, and few are positive."""
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 20, generator=generator) * torch.rand(20, generator=generator).pow(-spread / 2)
    rows = torch.randn(n, 20, generator=generator) * torch.rand(n, 1, generator=generator).pow(spread)
    rows[::3] = rows[0] + 1e-3 * torch.randn(len(rows[::3]), 20, generator=generator)
    bias = shift * torch.rand(n, generator=generator)
    exact = torch.nn.functional.linear(x.double(), rows.double(), bias.double())
    tolerance = 1e-5 * float(x.norm(dim=1).max() * rows.norm(dim=1).max() + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "has_fast_int8", lambda: True)
        places, values = flat(codes.largest(x, rows, bias, k), n)
    assert len(set(places)) == len(places)
    assert np.allclose(values, exact.flatten()[places], atol=tolerance)
    for b in range(4):
        chosen = torch.tensor(sorted(values[places // n == b], reverse=True), dtype=torch.float64)
        expected = exact[b].relu().topk(k).values
        assert torch.allclose(chosen, expected[: len(chosen)], atol=tolerance)
        assert (expected[len(chosen) :] < tolerance).all()


@pytest.mark.parametrize("outlier", [1.0, 1e3])
def test_exact_pre_activations_lie_where_the_coarse_ones_say(outlier):
    generator = torch.Generator().manual_seed(0)
    x, rows, bias = (torch.randn(*shape, generator=generator) for shape in ((50, 70), (80, 70), (80,)))
    x[:, 3] *= outlier
    coarse, upper = CoarsePreActivations(rows, bias, alike=x)(x), np.empty(80, np.float32)
    exact = torch.nn.functional.linear(x.double(), rows.double(), bias.double()).numpy()
    widths = []
    for b in range(50):
        coarse_kernels.at_most(coarse, b, upper)
        lower = upper - np.array([coarse_kernels.uncertainty(coarse, b, j) for j in range(80)])
        assert (lower <= exact[b]).all()
        assert (exact[b] <= upper).all()
        widths.append((upper - lower).mean())
    assert np.mean(widths) < 0.1 * float(x.norm(dim=1).mean() * rows.norm(dim=1).mean())


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize(
    "select", [codes.largest, codes.largest_of_batch, lambda *encoder: codes.positive(*encoder[:3])]
)
def test_threads_and_chunks_change_no_bit_of_exact_codes(select, coarse, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    encoder = [torch.randn(*shape, generator=generator) for shape in ((200, 64), (512, 64))]
    encoder.append(torch.full((512,), -15.0))
    found = []
    for n_threads, chunk in ((1, 64), (2, 64), (2, 64 if not coarse else 17)):
        monkeypatch.setattr(codes, "CHUNK", chunk)
        torch.set_num_threads(n_threads)
        with torch_threads():
            found.append(flat(select(*encoder, 9), 512))
    torch.set_num_threads(1)
    assert all(np.array_equal(part, first) for other in found for part, first in zip(other, found[0], strict=True))


@coarse_or_not
@pytest.mark.usefixtures("fast_int8")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_selection_keeps_to_its_rows_when_an_entry_is_not_a_number(value):
    encoder, _ = of_whole_numbers(0, 5, 30)
    encoder[0][2, 3] = value
    found = codes.largest(*encoder, 4)
    assert ((found.end - found.start >= 0) & (found.end - found.start <= 4)).all()
    places, _ = flat(found, 30)
    assert ((places >= 0) & (places < 150)).all()


@numba.njit
def mask(array, start, bound):
    return mask_reaching(array, start, bound)


@numba.njit
def lowest(number):
    return lowest_bit(number)


def test_a_mask_tells_which_entries_reach_the_bound():
    array = np.random.default_rng(0).integers(-5, 6, 3 * WIDTH).astype(np.int32)
    for start, bound in ((0, 0), (17, 3), (2 * WIDTH, -5), (WIDTH, 6)):
        found = int(mask(array, start, np.int32(bound)))
        assert [found >> i & 1 for i in range(WIDTH)] == list(array[start : start + WIDTH] >= bound)
    assert [lowest(np.uint64(number)) for number in (1, 12, 2**63)] == [0, 2, 63]


@pytest.mark.parametrize("array", [np.zeros(200, np.float32), np.zeros(200, np.int32)[::2]])
def test_masks_of_anything_but_contiguous_int32_are_refused(array):
    with pytest.raises(TypingError, match="mask_reaching takes a contiguous vector of int32"):
        mask(array, 0, np.int32(1))


def test_the_encoder_product_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    x, rows, bias = (torch.randn(*shape, generator=generator) for shape in ((33, 17), (29, 17), (29,)))
    assert torch.allclose(products.linear(x, rows, bias), torch.nn.functional.linear(x, rows, bias), atol=1e-5)


def test_the_product_of_integers_is_exact():
    x, rows = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((33, 70), (29, 70)))
    out = torch.empty(33, 29, dtype=torch.int32)
    products.multiply_int8(x, rows, out)
    assert torch.equal(out, x.int() @ rows.int().T)


def test_kernels_use_as_many_threads_as_torch_and_give_them_back():
    before = numba.get_num_threads()
    with torch_threads():
        assert numba.get_num_threads() == min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    assert numba.get_num_threads() == before


def test_starting_the_threads_of_kernels_leaves_torch_with_the_number_it_was_given():
    """Where numba's threads are OpenMP's, starting them sets the number of torch's threads to that of all cores."""
    script = """
import torch
from sae_core.kernel_options import torch_threads
torch.set_num_threads(1)
with torch_threads():
    print(torch.get_num_threads())
print(torch.get_num_threads())
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["1", "1"]
