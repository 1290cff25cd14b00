"""PW-MCC from checkpoints."""

import numpy as np
import pytest

from sae_core.architectures import build
from sae_core.config import TopKConfig
from sae_core.consistency.nulls import null_mcc
from sae_core.consistency.over_training import checkpoint_folders, over_training
from sae_core.formats import save_sae
from sae_core.matching import match

VARIANT = TopKConfig(d_sae=24, k=3)


@pytest.fixture
def runs(tmp_path):
    """Three runs with checkpoints at steps 0 and 10; at step 10 all of them have the same decoder."""
    common = build(VARIANT, 8, seed=99)
    for seed in range(3):
        folder = tmp_path / f"seed{seed}"
        save_sae(build(VARIANT, 8, seed=seed), folder / "checkpoints" / "step_0")
        save_sae(common, folder / "checkpoints" / "step_10")
        save_sae(common, folder)
    return {f"seed {seed}": checkpoint_folders(tmp_path / f"seed{seed}") for seed in range(3)}


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path):
    for step in (100, 0, 20):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    assert list(checkpoint_folders(tmp_path)) == [0, 20, 100]
    assert checkpoint_folders(tmp_path / "nothing") == {}


def test_agreement_starts_at_chance_and_ends_where_the_decoders_are_equal(runs):
    table = over_training(runs, tokens_per_step=5).to_pydict()
    assert table["step"] == [0, 10]
    assert table["n_tokens"] == [0, 50]
    decoders = [build(VARIANT, 8, seed=seed).W_dec.detach().numpy() for seed in range(3)]
    pairs = [match(decoders[i], decoders[j]).mcc for i, j in ((0, 1), (0, 2), (1, 2))]
    assert table["pw_mcc"][0] == pytest.approx(np.mean(pairs))
    assert table["pw_mcc"][1] == pytest.approx(1)
    assert table["ci_low"][0] < table["pw_mcc"][0] < table["ci_high"][0]
    assert table["null_isotropic"] == [pytest.approx(null_mcc(24, 8))] * 2


def test_two_runs_have_no_interval(runs):
    table = over_training({name: runs[name] for name in ("seed 0", "seed 1")}, tokens_per_step=1).to_pydict()
    assert table["ci_low"] == table["ci_high"] == [None, None]


def test_only_steps_that_all_runs_kept_are_compared(runs):
    del runs["seed 2"][0]
    assert over_training(runs, tokens_per_step=1)["step"].to_pylist() == [10]
    runs["seed 2"].clear()
    assert over_training(runs, tokens_per_step=1) is None


def test_one_run_is_refused(runs):
    with pytest.raises(ValueError, match="at least two are needed, got 1"):
        over_training({"seed 0": runs["seed 0"]}, tokens_per_step=1)
