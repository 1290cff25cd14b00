"""Streams of synthetic samples: what a sample is made of, that it is the same however it is asked for, and refusals."""

import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest

from sae_core.synthetic import data as module
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic_config import SyntheticConfig

KINDS = {
    "plain": {},
    "bernoulli": {"support": "bernoulli", "bias": 0.5},
    "zipf": {"frequency": {"kind": "zipf"}, "dictionary": "orthogonalised", "noise": 0.1},
    "grouped": {"frequency": {"kind": "zipf", "n_groups": 4}, "magnitude": "exponential"},
    "two-phase": {"frequency": {"kind": "two_phase_zipf", "break_rank": 5}, "magnitude": "constant"},
    "correlated": {"structure": {"kind": "correlated", "strength": 0.5}},
    "correlated-bernoulli": {"structure": {"kind": "correlated", "strength": 0.5}, "support": "bernoulli"},
    "hierarchical": {"structure": {"kind": "hierarchical"}, "support": "bernoulli"},
    "exclusive": {"structure": {"kind": "exclusive", "group_size": 4}},
    "exclusive-bernoulli": {"structure": {"kind": "exclusive", "group_size": 4}, "support": "bernoulli", "noise": 1.0},
}


def config(**settings):
    return SyntheticConfig(**{"d_in": 8, "d_gt": 16, "k": 3, **settings})


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_SAMPLES", 50)


# --- what a sample is made of -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_its_codes_times_the_dictionary(kind):
    settings = {**KINDS[kind], "noise": 0.0}
    data = SyntheticData(config(**settings))
    draw = data.draw(500, seed=1)
    codes = draw.codes()
    assert torch.allclose(draw.x, codes @ data.dictionary + data.bias, atol=1e-5)
    assert torch.equal(draw.counts(), (codes > 0).sum(0))
    assert (codes >= 0).all()
    if data.config.support == "exactly":
        assert ((codes > 0).sum(1) == 3).all()
    else:
        assert float((codes > 0).sum(1).float().mean()) == pytest.approx(3, abs=0.4)


def test_a_sample_on_which_nothing_fires_is_the_bias():
    data = SyntheticData(config(k=1, support="bernoulli", bias=2.0))
    draw = data.draw(100, seed=0)
    silent = draw.codes().sum(1) == 0
    assert silent.any()
    assert torch.equal(draw.x[silent], data.bias.expand(int(silent.sum()), -1))


@pytest.mark.parametrize(
    ("magnitude", "law"), [("half_normal", "halfnorm"), ("exponential", "expon"), ("constant", None)]
)
def test_codes_have_the_magnitudes_asked_for(magnitude, law):
    value = SyntheticData(config(magnitude=magnitude)).draw(5000, seed=0).value.numpy()
    assert value.dtype == np.float32
    if law is None:
        assert (value == 1).all()
    else:
        assert kstest(value, law).pvalue > 1e-3


def test_the_bias_has_the_length_asked_for_and_its_absence_is_zero():
    assert float(SyntheticData(config(bias=2.5)).bias.norm()) == pytest.approx(2.5)
    assert not SyntheticData(config()).bias.any()


def test_noise_has_the_root_mean_square_length_asked_for_in_all_directions():
    noisy, clean = (SyntheticData(config(noise=noise)).draw(20_000, seed=4) for noise in (0.5, 0.0))
    assert torch.equal(noisy.codes(), clean.codes())  # noise is added to the very samples there are without it
    noise = (noisy.x - clean.x).double()
    assert float(noise.square().sum(1).mean()) == pytest.approx(0.25, rel=0.02)
    assert torch.allclose(noise.T @ noise / 20_000, torch.eye(8).double() * 0.25 / 8, atol=2e-3)


def test_the_probabilities_are_known_where_theory_has_them_and_only_there():
    known = {kind: SyntheticData(config(**settings)).probability for kind, settings in KINDS.items()}
    assert {kind for kind, found in known.items() if found is None} == {"zipf", "grouped", "two-phase", "correlated"}
    for kind, found in known.items():
        if found is not None:
            assert float(found.sum()) == pytest.approx(3)
            rates = SyntheticData(config(**KINDS[kind])).draw(20_000, seed=0).counts() / 20_000
            assert torch.allclose(rates.double(), found, atol=0.02)


def test_the_weights_add_up_to_one():
    assert float(SyntheticData(config(**KINDS["zipf"])).weights.sum()) == pytest.approx(1)


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_whatever_is_drawn_with_it(kind, small_blocks):
    data = SyntheticData(config(**KINDS[kind]))
    whole = data.draw(230, seed=5)
    for start, n in ((0, 1), (0, 50), (49, 2), (50, 50), (77, 120), (229, 1)):
        part = SyntheticData(config(**KINDS[kind])).draw(n, seed=5, start=start)
        assert torch.equal(part.x, whole.x[start : start + n])
        assert torch.equal(part.codes(), whole.codes()[start : start + n])
        order = part.sample * 16 + part.feature
        assert (order.diff() > 0).all()


@pytest.mark.parametrize("batch_size", [1, 32, 50, 120])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_are_the_samples_of_the_stream_in_their_order(batch_size, start, small_blocks):
    data = SyntheticData(config(**KINDS["zipf"]))
    batches = torch.stack(list(islice(data.batches(batch_size, seed=2, start=start), 4)))
    drawn = data.draw(4 * batch_size, seed=2, start=start * batch_size)
    assert torch.equal(batches.flatten(0, 1), drawn.x)


def test_streams_of_other_seeds_or_other_data_have_other_samples():
    data = SyntheticData(config())
    first = data.draw(100, seed=0)
    for other in (data.draw(100, seed=1), SyntheticData(config(seed=1)).draw(100, seed=0)):
        assert not torch.equal(other.feature, first.feature)
        assert not torch.isin(other.value, first.value).any()
    assert torch.equal(SyntheticData(config()).draw(100, seed=0).x, first.x)


def test_blocks_of_a_stream_differ(small_blocks):
    value = SyntheticData(config()).draw(5000, seed=0).value
    assert len(value.unique()) > 0.999 * len(value)


def test_streams_that_are_read_in_turns_do_not_disturb_each_other(small_blocks):
    data = SyntheticData(config())
    streams = [data.batches(20, seed=seed) for seed in (0, 1)]
    in_turns = [[next(stream) for stream in streams] for _ in range(8)]
    for seed, batches in enumerate(zip(*in_turns, strict=True)):
        assert torch.equal(torch.cat(batches), data.draw(160, seed=seed).x)


def test_changing_what_was_drawn_changes_nothing_that_is_drawn_later():
    data = SyntheticData(config())
    first = data.draw(10, seed=0)
    kept = first.x.clone()
    first.x.zero_()
    first.value.zero_()
    next(data.batches(10, seed=0)).zero_()
    again = data.draw(10, seed=0)
    assert torch.equal(again.x, kept)
    assert (again.value > 0).all()


def test_a_sample_far_into_a_stream_and_a_long_stream_take_no_memory():
    data = SyntheticData(config(d_gt=64, support="bernoulli"))
    data.draw(10, seed=0)
    tracemalloc.start()
    far = data.draw(10, seed=0, start=100_000_000)
    for _ in islice(data.batches(1000, seed=0, start=100_000), 100):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(far.x) == 10
    assert peak < 20e6  # the codes of the samples before would take gigabytes


def test_wide_data_are_made_in_smaller_blocks():
    data = SyntheticData(config(d_gt=20_000, structure={"kind": "correlated", "strength": 0.5}))
    tracemalloc.start()
    data.draw(1, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # 16,384 samples of 20,000 features would take 1.3 GB


@pytest.mark.parametrize("kind", KINDS)
def test_the_generators_of_the_caller_are_untouched(kind):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    data = SyntheticData(config(**KINDS[kind]))
    data.draw(10, seed=0)
    next(data.batches(10, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind):
    draws = []
    for n_threads in (2, 1):
        torch.set_num_threads(n_threads)
        draws.append(SyntheticData(config(**KINDS[kind])).draw(3000, seed=0).x)
    assert torch.equal(*draws)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "seed": 0}, "n must be at least 1: got 0"),
        ({"n": 1, "seed": -1}, "seed must not be negative: got -1"),
        ({"n": 1, "seed": 0, "start": -5}, "start must not be negative: got -5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    data = SyntheticData(config())
    with pytest.raises(ValueError, match=message):
        data.draw(**arguments)


def test_batches_that_cannot_be_are_refused_before_the_first_one_is_asked_for():
    data = SyntheticData(config())
    with pytest.raises(ValueError, match="batch_size must be at least 1: got 0"):
        data.batches(0, seed=0)
    with pytest.raises(ValueError, match="start must not be negative: got -1"):
        data.batches(8, seed=0, start=-1)


EXCLUSIVE = {"kind": "exclusive", "group_size": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 17}, "k features fire, of d_gt there are: got k=17, d_gt=16; lower k"),
        ({"k": 0}, r"k\n  Input should be greater than or equal to"),
        ({"d_in": 0}, r"d_in\n  Input should be greater than or equal to"),
        ({"d_gt": 0}, r"d_gt\n  Input should be greater than or equal to"),
        ({"bias": -1}, "greater than or equal to 0"),
        ({"noise": -0.1}, "greater than or equal to 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"frequency": {"kind": "zipf", "exponent": 0}}, "greater than 0"),
        ({"frequency": {"kind": "zipf", "exponent": -1}}, "greater than 0"),
        ({"frequency": {"kind": "zipf", "n_groups": 5}}, "got d_gt=16 and n_groups=5, which does not divide it"),
        ({"frequency": {"kind": "two_phase_zipf", "break_rank": 17}}, "must not exceed d_gt=16: got 17"),
        ({"frequency": {"kind": "two_phase_zipf", "tail_exponent": 0, "break_rank": 2}}, "greater than 0"),
        ({"structure": {"kind": "exclusive", "group_size": 3}}, "group_size=3, which does not divide it"),
        ({"structure": EXCLUSIVE, "k": 5}, "got k=5 and 4 groups; lower k or group_size"),
        ({"structure": {"kind": "correlated", "strength": 1.5}}, "less than or equal to 1"),
        ({"structure": {"kind": "correlated", "strength": 0.5, "rank": 0}}, "greater than or equal to 1"),
        ({"structure": {"kind": "hierarchical"}}, "set support to bernoulli"),
        ({"structure": {"kind": "hierarchical", "n_roots": 17}, "support": "bernoulli"}, "must not exceed d_gt=16"),
    ],
)
def test_settings_that_no_data_can_have_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_what_only_the_probabilities_show_is_refused_when_the_data_are_made():
    with pytest.raises(ValueError, match="at most one feature of an exclusive group fires.*lower k, group_size"):
        SyntheticData(config(structure=EXCLUSIVE, support="bernoulli", frequency={"kind": "zipf", "exponent": 2}))
    with pytest.raises(ValueError, match="has weight zero in double precision.*lower its exponent"):
        SyntheticData(config(frequency={"kind": "zipf", "exponent": 500}))
