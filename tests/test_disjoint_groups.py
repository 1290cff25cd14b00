"""Consensuses of disjoint groups of runs: better than single runs on known data, with a fair control."""

from itertools import combinations

import numpy as np
import pytest
import torch

from sae_core.architectures import build
from sae_core.config import TopKConfig, TrainingConfig
from sae_core.consistency.consensus_dictionary import consensus
from sae_core.consistency.consensus_sae import consensus_sae
from sae_core.consistency.consensus_summary import consensus_summary
from sae_core.consistency.group_comparison import disjoint_groups, most_stable, no_groups_reason
from sae_core.consistency.mutual_neighbours import of_subset
from sae_core.consistency.runs import Run
from sae_core.matching import match
from sae_core.training import train
from tests.planted_runs import matched, named, truth_and_runs


@pytest.mark.parametrize("n_runs", [4, 5, 6])
def test_consensuses_of_disjoint_groups_agree_better_than_runs_and_than_their_best_features(n_runs):
    _, runs = truth_and_runs(n_runs, n_true=80)
    found = disjoint_groups(runs, matched(runs))
    assert found.consensus_mcc > found.single_restricted_mcc > found.single_mcc
    assert found.n_splits_better == found.n_splits == {4: 3, 5: 10, 6: 10}[n_runs]
    assert found.group_sizes == [n_runs // 2, n_runs - n_runs // 2]
    assert found.consensus_mcc_sd < 0.1


def test_the_values_are_those_of_matching_by_hand():
    _, runs = truth_and_runs(4, seed=1)
    matchings = matched(runs)
    found = disjoint_groups(runs, matchings, tau=0.6)
    values = []
    for split in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))):
        groups = [consensus([runs[i] for i in group], of_subset(matchings, group), tau=0.6) for group in split]
        single, restricted = [], []
        for a in split[0]:
            for b in split[1]:
                single.append(match(runs[a].W_dec, runs[b].W_dec).mcc)
                W = []
                for run, group, size in zip((a, b), split, [g.n_features for g in groups], strict=True):
                    (mate,) = set(group) - {run}
                    pair = match(runs[run].W_dec, runs[mate].W_dec)
                    W.append(runs[run].W_dec[pair.left[np.argsort(-pair.score)[:size]]])
                restricted.append(match(*W).mcc)
        values.append([match(groups[0].W_dec, groups[1].W_dec).mcc, np.mean(single), np.mean(restricted)])
    mean, sd = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    assert [found.consensus_mcc, found.single_mcc, found.single_restricted_mcc] == pytest.approx(mean.tolist())
    spread = [found.consensus_mcc_sd, found.single_mcc_sd, found.single_restricted_mcc_sd]
    assert spread == pytest.approx(sd.tolist())


def test_without_noise_a_consensus_is_worth_what_its_selection_is_worth():
    # Runs differ in junk alone: choosing the stable features of one run does all that a consensus can do.
    _, runs = truth_and_runs(4, noise=0.0, missing=0.0, d=64)
    found = disjoint_groups(runs, matched(runs))
    assert found.single_mcc < 0.9
    assert found.single_restricted_mcc == pytest.approx(1)
    assert found.consensus_mcc == pytest.approx(1)


def test_the_most_stable_features_are_those_with_the_largest_mean_score_in_the_group():
    _, runs = truth_and_runs(3, seed=2)
    matchings, n = matched(runs), len(runs[1].W_dec)
    score = np.zeros(n)
    score[matchings[0, 1].right] += matchings[0, 1].score / 2
    score[matchings[1, 2].left] += matchings[1, 2].score / 2
    assert most_stable(matchings, 1, (0, 1, 2), 7, n).tolist() == sorted(np.argsort(-score)[:7].tolist())


def test_few_runs_and_runs_that_share_nothing_give_no_value_but_a_reason():
    _, runs = truth_and_runs(3)
    assert disjoint_groups(runs, matched(runs)) is None
    assert no_groups_reason(3) == "two disjoint groups of at least two runs each need four runs: there are 3"
    summary = consensus_summary(consensus(runs, matched(runs)))
    assert (summary.disjoint_groups, summary.disjoint_groups_reason) == (None, no_groups_reason(3))
    rng = np.random.default_rng(0)
    unrelated = named(*(rng.standard_normal((20, 64)) for _ in range(4)))
    assert disjoint_groups(unrelated, matched(unrelated)) is None
    assert no_groups_reason(4) == "in every split, a group of runs agrees on no feature"


def test_a_sample_of_splits_is_the_same_every_time_and_its_size_is_asked_for():
    _, runs = truth_and_runs(8, n_true=20, n_junk=5)
    matchings = matched(runs)
    seen = []
    first = disjoint_groups(runs, matchings, n_splits=4, seed=1, progress=lambda *told: seen.append(told))
    assert first == disjoint_groups(runs, matchings, n_splits=4, seed=1)
    assert first != disjoint_groups(runs, matchings, n_splits=4, seed=2)
    assert (first.n_splits, first.group_sizes) == (4, [4, 4])
    assert seen[0] == (0, 4, "consensuses of disjoint groups, split 1 of 4")
    assert disjoint_groups(runs, matchings, n_splits=1).consensus_mcc_sd is None
    with pytest.raises(ValueError, match="at least one split: got n_splits=0"):
        disjoint_groups(runs, matchings, n_splits=0)


@pytest.mark.slow
def test_of_trained_saes_the_consensus_is_closer_to_the_truth_and_to_another_consensus():
    # X = F A: 32 features in 16 dimensions, 3 of them active; TopK SAEs of six seeds.
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator))

    def batches(seed: int, count: int):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            active = torch.rand(512, 32, generator=generator).topk(3, dim=1).indices
            values = torch.randn(512, 3, generator=generator).abs()
            yield torch.zeros(512, 32).scatter(1, active, values) @ truth

    config = TrainingConfig(n_steps=3000, batch_size=512, lr=2e-3, warmup_steps=100, sparsity_warmup_steps=100)
    saes = [train(build(TopKConfig(d_sae=32, k=3), 16, s), batches(s + 10, 3000), config).sae for s in range(6)]
    runs = [Run(f"seed {s}", sae.W_dec.numpy(), W_enc=sae.W_enc.numpy()) for s, sae in enumerate(saes)]
    matchings = {(i, j): match(runs[i].W_dec, runs[j].W_dec) for i, j in combinations(range(6), 2)}
    found, groups = consensus(runs, matchings), disjoint_groups(runs, matchings)

    singles = np.mean([match(truth, run.W_dec).mcc for run in runs])
    assert match(truth, found.W_dec).mcc > singles
    assert groups.consensus_mcc > groups.single_restricted_mcc + 0.02
    assert groups.n_splits_better >= 9
    (x,) = batches(999, 1)
    error = [float((sae(x) - x).pow(2).sum()) for sae in [consensus_sae(saes, found), *saes]]
    assert error[0] < 1.2 * np.mean(error[1:])
