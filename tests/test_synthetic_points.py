"""A point of a synthetic study: trained, measured and written, and every number can be found again in its files."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sae_core.compare import compare
from sae_core.config import BatchTopKConfig, StandardConfig, TopKConfig
from sae_core.consistency import pw_mcc
from sae_core.formats import load_sae
from sae_core.matching import match
from sae_core.synthetic import processes
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.points import build_point
from sae_core.synthetic.results import PointSummary
from sae_core.synthetic.runs import start_at_truth, train_point
from sae_core.synthetic_chain import make_experiment, make_point
from sae_core.synthetic_config import (
    MeasuresConfig,
    PointConfig,
    RecipeConfig,
    SyntheticConfig,
    SyntheticStudyConfig,
)

DATA = SyntheticConfig(d_in=6, d_gt=8, k=2)
TOPK = TopKConfig(d_sae=8, k=2, aux_k_coefficient=0)


def point(data=DATA, variant=TOPK, measures=None, seeds=(0, 1, 2), **recipe):
    recipe = {"n_steps": 60, "batch_size": 64, "lr": 5e-3} | recipe
    return PointConfig(
        data=data,
        variant=variant,
        recipe_name="tiny",
        recipe=RecipeConfig(**recipe),
        measures=MeasuresConfig(n_eval_samples=512, n_null_draws=1, **(measures or {})),
        seeds=list(seeds),
    )


def built(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    build_point(folder, config)
    return PointSummary.model_validate_json((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("point")
    everything = {"groups": 4, "round_trip": True, "checkpoints": [0, 0.5, 1], "seed_counts": [2, 3]}
    return folder, built(folder, point(measures=everything))


def loaded(folder):
    return [load_sae(one) for one in sorted((folder / "saes").iterdir())]


def test_gt_mcc_and_pw_mcc_are_those_of_the_saes_that_were_written(made):
    folder, summary = made
    truth = load_file(folder / "truth.safetensors")["W_dec"]
    decoders = [sae.W_dec.detach().numpy() for sae in loaded(folder)]
    assert summary.recovery.gt_mcc_by_run == pytest.approx([match(W, truth).mcc for W in decoders], abs=1e-6)
    assert summary.consistency.pw_mcc == pytest.approx(pw_mcc(decoders), abs=1e-6)
    assert summary.dynamics[-1].gt_mcc == pytest.approx(summary.recovery.gt_mcc, abs=1e-6)
    assert summary.seed_counts[-1].pw_mcc == pytest.approx(summary.consistency.pw_mcc, abs=1e-6)


def test_concord_compare_takes_an_sae_and_the_truth_as_they_are_written(made):
    folder, summary = made
    found = compare([str(folder / "saes" / "seed_0"), str(folder / "truth.safetensors")])
    assert found.comparison.consistency.pw_mcc == pytest.approx(summary.recovery.gt_mcc_by_run[0], abs=1e-6)


def test_fvu_and_l0_hold_for_the_saes_that_were_written_on_other_samples(made):
    folder, summary = made
    x = SyntheticData(DATA).draw(20_000, 99).x
    for sae, fvu in zip(loaded(folder), summary.quality.fvu_by_run, strict=True):
        with torch.no_grad():
            error = (sae(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
            assert float((sae.encode(x) > 0).sum(1).double().mean()) == pytest.approx(summary.quality.l0, abs=0.2)
        assert float(error) == pytest.approx(fvu, abs=0.05)


def test_the_measured_frequencies_are_those_of_the_data(made):
    folder, _ = made
    frequency = load_file(folder / "samples.safetensors")["frequency"]
    assert frequency.sum() == pytest.approx(DATA.k)
    assert frequency == pytest.approx(np.full(8, 0.25), abs=0.08)


def test_dynamics_begin_at_the_start_that_all_architectures_have(made):
    _, summary = made
    first = summary.dynamics[0]
    assert (first.step, [one.step for one in summary.dynamics]) == (0, [0, 30, 60])
    assert first.pw_mcc == pytest.approx(summary.consistency.null_untrained, abs=1e-6)


def test_the_ceiling_starts_at_the_truth(made):
    _, summary = made
    assert summary.ceiling.gt_mcc_start == pytest.approx(1, abs=1e-6)
    assert (summary.ceiling.n_runs, summary.ceiling.pw_mcc) == (1, None)


def test_with_fewer_or_more_features_the_ceiling_still_starts_at_true_ones(tmp_path):
    for d_sae in (4, 12):
        summary = built(tmp_path / str(d_sae), point(variant=TopKConfig(d_sae=d_sae, k=2, aux_k_coefficient=0)))
        assert summary.ceiling.n_runs == 3
        assert summary.ceiling.gt_mcc_start == pytest.approx(1, abs=1e-6)


def test_training_recovers_an_orthonormal_dictionary_that_fires_one_by_one(tmp_path):
    data = SyntheticConfig(d_in=8, d_gt=8, k=1, dictionary="orthogonalised", magnitude="exponential")
    variant = TopKConfig(d_sae=8, k=1, aux_k_coefficient=0)
    config = point(data, variant, {"round_trip": True}, n_steps=600, lr=1e-2, batch_size=128)
    summary = built(tmp_path, config)
    assert max(summary.recovery.gt_mcc_by_run) > 0.95
    assert summary.premises.spark_condition
    assert summary.premises.truth.same_support == 1
    assert summary.chance_like == []


def test_an_sae_that_learned_nothing_is_called_chance_like(tmp_path):
    summary = built(tmp_path, point(seeds=range(8), n_steps=1, lr=1e-9))
    assert set(summary.chance_like) == {"gt_mcc", "pw_mcc"}
    assert not summary.consistent_but_wrong


def test_the_same_point_gives_the_same_artifact_whatever_its_recipe_is_called(store, tmp_path):
    first = make_point(store, point())
    again = make_point(store, point().model_copy(update={"recipe_name": "other"}))
    assert again.cache_hit
    from sae_core.store import ArtifactStore

    elsewhere = make_point(ArtifactStore(tmp_path / "elsewhere"), point())
    assert elsewhere.content == first.content


def test_every_architecture_can_be_measured(tmp_path):
    summary = built(tmp_path, point(variant=BatchTopKConfig(d_sae=8, k=2)))
    assert summary.quality.l0 > 0
    assert load_sae(tmp_path / "saes" / "seed_0").architecture == "jumprelu"  # what BatchTopK is in use


def test_divided_among_processes_every_seed_has_the_same_bits(monkeypatch):
    config, data = point(variant=BatchTopKConfig(d_sae=8, k=2)), SyntheticData(DATA)
    here = train_point(config, data, [0, 1, 2], from_truth=True)
    monkeypatch.setattr(processes, "WORTH_IT", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert processes.divide([0, 1, 2], 60) == [[0, 2], [1]]
    divided = train_point(config, data, [0, 1, 2], from_truth=True)
    for one, other in zip(here.saes, divided.saes, strict=True):
        assert torch.equal(one.W_dec, other.W_dec)
        assert torch.equal(one.W_enc, other.W_enc)
        assert torch.equal(one.threshold, other.threshold)


def test_a_process_that_fails_says_why(monkeypatch):
    config = point(variant=BatchTopKConfig(d_sae=8, k=2), lr=1e30)
    with pytest.raises(ValueError, match="seed 0: the gradient norm is|seed 0: the loss became"):
        processes.train_in_processes(config, [[0]], from_truth=False)


def test_a_seed_changes_the_samples_too_where_the_recipe_says_so():
    data = SyntheticData(DATA)
    for variant in (TOPK, BatchTopKConfig(d_sae=8, k=2)):
        same, own = (train_point(point(variant=variant, vary=vary), data, [0, 0]) for vary in ("init", "init_and_data"))
        other = train_point(point(variant=variant, vary="init_and_data"), data, [0, 1])
        assert torch.equal(same.saes[0].W_dec, same.saes[1].W_dec)
        assert torch.equal(own.saes[0].W_dec, other.saes[0].W_dec)
        assert not torch.allclose(own.saes[1].W_dec, other.saes[1].W_dec)


def test_a_fixed_number_of_samples_is_gone_through_in_another_order_each_time():
    data = SyntheticData(DATA)
    fixed = train_point(point(n_samples=64, n_steps=3), data, [0])
    x = data.draw(64, 0).x
    assert not torch.equal(fixed.saes[0].W_dec, train_point(point(n_steps=3), data, [0]).saes[0].W_dec)
    # One batch holds all of them, so their order changes nothing but rounding.
    from sae_core.architectures import build
    from sae_core.training.stacks import StackSettings, train_stack

    alone, scale = build(TOPK, 6, 0), float(x.double().pow(2).sum(1).mean().rsqrt())
    train_stack([alone], [scale * x.expand(3, 64, 6)], StackSettings(np.full(3, 5e-3)))
    torch.testing.assert_close(fixed.saes[0].W_dec, alone.W_dec.detach(), rtol=0, atol=1e-5)


def test_a_start_at_the_truth_takes_frequent_features_first():
    data = SyntheticData(SyntheticConfig(d_in=6, d_gt=8, k=1, frequency={"kind": "zipf", "exponent": 30}))
    from sae_core.architectures import build

    sae = build(TopKConfig(d_sae=2, k=1, aux_k_coefficient=0), 6, 0)
    start_at_truth(sae, data, 0)
    assert torch.equal(sae.W_dec, data.dictionary[:2])
    assert torch.equal(sae.W_enc, data.dictionary[:2].T)


def test_a_recipe_for_standard_and_topk_is_refused_for_others():
    with pytest.raises(ValueError, match="recipe tiny trains as the paper's released code does"):
        point(variant=BatchTopKConfig(d_sae=8, k=2), unit_decoder=False)
    with pytest.raises(ValueError, match="take whiten out of the variant"):
        point(variant=StandardConfig(d_sae=8, l1_coefficient=0.1, whiten=True))
    with pytest.raises(ValueError, match="n_samples must hold a batch"):
        point(n_samples=10)


def test_an_experiment_says_how_many_points_are_chance_like(store):
    study = SyntheticStudyConfig.model_validate(
        {
            "name": "tiny",
            "seeds": [0, 1, 2],
            "recipes": {"tiny": {"n_steps": 5, "batch_size": 16}},
            "experiments": [
                {
                    "name": "sweep",
                    "title": "Noise",
                    "measures": {"n_eval_samples": 64, "n_null_draws": 1},
                    "groups": [
                        {
                            "figure": "sweep",
                            "x": "noise",
                            "data": [{"d_in": 6, "d_gt": 8, "k": 2, "noise": {"sweep": [0, 0.5]}}],
                            "variants": [TOPK.model_dump(mode="json")],
                            "recipes": ["tiny"],
                        }
                    ],
                }
            ],
        }
    )
    made = make_experiment(store, study, "sweep", "all")
    points = json.loads((made.path / "points.json").read_text())
    assert made.summary["n_points"] == len(points) == 2
    assert made.summary["n_chance_like"] == sum(bool(one["chance_like"]) for one in points)
    assert (made.path / "figure.png").stat().st_size > 1000
