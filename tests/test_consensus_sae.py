"""The SAE made of what runs agree on: the same function, whatever way its members are written."""

import json

import numpy as np
import pytest
import torch

from sae_core.architectures import Conventions, Sae, create
from sae_core.consistency.consensus_dictionary import consensus
from sae_core.consistency.consensus_sae import consensus_sae
from sae_core.consistency.runs import Run
from sae_core.formats import load_sae, save_sae
from tests.planted_runs import matched

KINDS = [("topk", {"k": 4}), ("standard", {}), ("jumprelu", {}), ("gated", {})]


def random_sae(kind: str, settings: dict[str, int], d_in: int = 10, d_sae: int = 24) -> Sae:
    sae = create(kind, d_in, d_sae, **settings).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.normal_(generator=generator)
    sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    return sae


def rewritten(sae: Sae, seed: int, flip: tuple[int, ...] = ()) -> Sae:
    """The same function with other features' order and lengths; flipped features fire for the opposite inputs."""
    rng, (_, settings) = np.random.default_rng(seed), next(kind for kind in KINDS if kind[0] == sae.architecture)
    made = create(sae.architecture, sae.d_in, sae.d_sae, **settings).requires_grad_(False)
    order = torch.from_numpy(rng.permutation(sae.d_sae))
    same_length = sae.architecture == "topk"  # the choice of the k largest depends on the lengths
    c = torch.from_numpy(np.ones(24) if same_length else rng.uniform(0.5, 2, 24)).float()
    sign = torch.ones(24)
    sign[list(flip)] = -1
    for name, parameter in made.named_parameters():
        value = getattr(sae, name)
        if name == "W_dec":
            value = value * (sign * c)[:, None]
        elif name == "W_enc":
            value = value * sign / c
        elif name in ("b_enc", "threshold", "b_gate", "b_mag"):
            value = value / c
        if name == "W_enc":
            value = value[:, order]
        elif name != "b_dec":
            value = value[order]
        parameter.copy_(value)
    return made.eval()


def runs_of(saes: list[Sae]) -> list[Run]:
    return [Run(f"seed {n}", sae.W_dec.numpy(), W_enc=sae.W_enc.numpy()) for n, sae in enumerate(saes)]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_the_consensus_of_one_sae_written_in_many_ways_is_that_sae(kind, settings):
    sae = random_sae(kind, settings)
    saes = [rewritten(sae, seed) for seed in range(3)]
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(1))
    assert all(torch.allclose(other(x), sae(x), atol=1e-4) for other in saes)
    runs = runs_of(saes)
    made = consensus_sae(saes, consensus(runs, matched(runs)))
    assert type(made) is type(sae)
    assert torch.allclose(made(x), sae(x), atol=1e-4)
    assert made.W_dec.norm(dim=1).numpy() == pytest.approx(1)
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_a_member_that_fires_for_the_opposite_does_not_touch_the_encoder():
    sae = random_sae("standard", {})
    saes = [sae, rewritten(sae, 1), rewritten(sae, 2, flip=(0, 3, 7))]
    for parameter in ("b_enc", "W_enc"):
        assert not torch.equal(getattr(saes[2], parameter), getattr(sae, parameter))
    runs = runs_of(saes)
    found = consensus(runs, matched(runs))
    assert found.n_opposed == 3
    made = consensus_sae(saes, found)
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(made(x), sae(x), atol=1e-4)


def test_the_encoder_of_the_consensus_has_its_signs_and_lengths():
    sae = random_sae("standard", {})
    saes = [sae, rewritten(sae, 1), rewritten(sae, 2, flip=(0, 3, 7))]
    found = consensus(runs_of(saes), matched(runs_of(saes)))
    assert found.W_enc[:, np.argsort(found.members[:, 0])] == pytest.approx(sae.W_enc.numpy(), abs=1e-5)
    decoders_only = [Run(run.name, run.W_dec) for run in runs_of(saes)]
    assert consensus(decoders_only, matched(decoders_only)).W_enc is None


def test_biases_and_thresholds_are_medians_and_encoders_are_not_moved_by_one_run():
    sae = random_sae("jumprelu", {})
    saes = [rewritten(sae, 1) for _ in range(3)]
    for factor, other in zip((0.9, 1.0, 70.0), saes, strict=True):
        other.threshold.mul_(factor)
        other.b_dec.mul_(factor)
    saes[2].W_enc.neg_()
    made = consensus_sae(saes, consensus(runs_of(saes), matched(runs_of(saes))))
    lengths = saes[1].W_dec.norm(dim=1)
    assert torch.allclose(made.threshold, saes[1].threshold * lengths, atol=1e-5)
    assert torch.allclose(made.W_enc, saes[1].W_enc * lengths, atol=1e-2)
    assert torch.allclose(made.b_dec, saes[1].b_dec, atol=0.05 * saes[1].b_dec.norm())


@pytest.mark.parametrize(("kind", "settings"), KINDS[:2])
def test_the_sae_is_saved_and_loaded_like_any_other(tmp_path, kind, settings):
    sae = random_sae(kind, settings)
    saes = [sae, rewritten(sae, 1)]
    made = consensus_sae(saes, consensus(runs_of(saes), matched(runs_of(saes))))
    save_sae(made, tmp_path / "consensus", {"runs": ["seed 0", "seed 1"]})
    loaded = load_sae(tmp_path / "consensus")
    x = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(x), made(x))
    assert json.loads((tmp_path / "consensus" / "cfg.json").read_text())["metadata"] == {"runs": ["seed 0", "seed 1"]}


def test_k_is_lowered_when_there_are_too_few_features():
    saes = [random_sae("topk", {"k": 8}) for _ in range(2)]
    saes[1].W_dec[5:] = torch.randn(19, 10, generator=torch.Generator().manual_seed(5))
    found = consensus(runs_of(saes), matched(runs_of(saes)), tau=0.99)
    assert found.n_features == 5
    assert consensus_sae(saes, found).k == 4


def test_transcoders_and_their_conventions_are_kept():
    transcoder = Conventions(d_out=7, is_transcoder=True, has_skip=True, subtract_b_dec=False)
    sae = create("jumprelu", 10, 12, conventions=transcoder).requires_grad_(False)
    for parameter in sae.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    runs = [Run(name, sae.W_dec.numpy()) for name in ("a", "b")]
    made = consensus_sae([sae, sae], consensus(runs, matched(runs)))
    x = torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(made(x), sae(x), atol=1e-3)


def test_saes_that_are_not_those_of_the_runs_are_refused():
    sae = random_sae("topk", {"k": 4})
    saes = [sae, rewritten(sae, 1)]
    found = consensus(runs_of(saes), matched(runs_of(saes)))
    with pytest.raises(ValueError, match="expected the SAEs of the 2 runs of the consensus, got 3"):
        consensus_sae([*saes, sae], found)
    with pytest.raises(ValueError, match="SAE 0 is not that of seed 0: its decoder rows are not those"):
        consensus_sae(saes[::-1], found)
    with pytest.raises(ValueError, match="architecture of seed 1 is standard, that of seed 0 is topk"):
        consensus_sae([sae, random_sae("standard", {})], found)
    with pytest.raises(ValueError, match="k of seed 1 is 5, that of seed 0 is 4; compare runs of one variant"):
        consensus_sae([sae, random_sae("topk", {"k": 5})], found)
    with pytest.raises(ValueError, match="d_in of seed 1 is 9, that of seed 0 is 10"):
        consensus_sae([sae, random_sae("topk", {"k": 4}, d_in=9)], found)
    other = random_sae("topk", {"k": 4})
    other.W_dec.copy_(torch.randn(24, 10, generator=torch.Generator().manual_seed(5)))
    nothing = consensus(runs_of([sae, other]), matched(runs_of([sae, other])), tau=0.999)
    with pytest.raises(ValueError, match=r"the consensus of seed 0, seed 1 has 0 at tau 0\.999; these runs agree on"):
        consensus_sae([sae, other], nothing)
