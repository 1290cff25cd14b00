"""SAELens' SynthSAEBench and ours measure alike: its data with our SAEs and numbers, our data in its evaluation."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.architectures import build
from sae_core.config import EvaluationConfig, StandardConfig, TopKConfig
from sae_core.consistency import Run
from sae_core.evaluation import evaluate
from sae_core.formats import load_dictionary, load_sae, save_sae
from sae_core.matching import match
from sae_core.shards import ShardData, write_shards
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.recovery import recover
from sae_core.synthetic_config import MeasuresConfig, SyntheticConfig
from sae_core.training import train
from tests.tiny_training import config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

N_SAMPLES, N_STEPS = 4000, 300

MODEL = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from sae_lens.synthetic import (
    LowRankCorrelationConfig, SyntheticModel, SyntheticModelConfig, ZipfianFiringProbabilityConfig,
    mean_correlation_coefficient,
)
folder = Path(sys.argv[1])
torch.manual_seed(0)
model = SyntheticModel(SyntheticModelConfig(
    num_features=24, hidden_dim=16, firing_probability=ZipfianFiringProbabilityConfig(max_prob=0.3, min_prob=0.05),
    correlation=LowRankCorrelationConfig(rank=4), std_firing_magnitudes=0.3, bias=0.5, seed=1,
))
model.save(folder)
other = torch.randn(40, 16)
hidden, features = (tensor.detach() for tensor in model.sample_with_features(int(sys.argv[2])))
mcc = mean_correlation_coefficient(other, model.feature_dict.feature_vectors.detach())
save_file({"other": other, "mcc": torch.tensor(mcc), "x": hidden, "codes": features}, folder / "drawn.safetensors")
"""
"""A model of theirs and samples of it."""

SCORES = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file
from sae_lens import SAE
from sae_lens.synthetic import FeatureDictionary, SyntheticModel, eval_sae_on_synthetic_data

class Recorded:
    def __init__(self, codes):
        self.codes, self.place = codes, 0
    def sample(self, n):
        self.place += n
        return self.codes[self.place - n : self.place]

folder = Path(sys.argv[1])
drawn = load_file(folder / "drawn.safetensors")
if (folder / "synthetic_model.safetensors").exists():
    dictionary = SyntheticModel.load_from_disk(folder).feature_dict
else:
    dictionary = FeatureDictionary(*drawn["dictionary"].shape, initializer=None)
    dictionary.feature_vectors.data, dictionary.bias.data = drawn["dictionary"], drawn["bias"]
scores = {}
for path in sorted(folder.glob("sae_*")):
    generator = Recorded(drawn["codes"])
    found = eval_sae_on_synthetic_data(SAE.load_from_disk(path), dictionary, generator, len(drawn["codes"]), 1000)
    scores[path.name] = found.to_dict()
(folder / "scores.json").write_text(json.dumps(scores))
"""
"""Every SAE in a folder, scored by their evaluation on the samples in it."""


def run(python, script, *arguments):
    subprocess.run([python, "-W", "ignore", "-c", script, *map(str, arguments)], check=True)


def trained(x, folder):
    """Two seeds of two architectures, saved in ``folder/sae_<architecture>_<seed>``."""
    for variant in (TopKConfig(d_sae=32, k=3), StandardConfig(d_sae=20, l1_coefficient=0.05)):
        for seed in (0, 1):
            batches = (x[torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(i))] for i in range(400))
            result = train(build(variant, x.shape[1], seed), batches, config(N_STEPS, batch_size=256))
            save_sae(result.sae.finished(), folder / f"sae_{variant.architecture}_{seed}")


def assert_same_scores(folder, x, truth):
    """Their scores of the SAEs in the folder are what we measure of the same SAEs on the same samples."""
    n = np.arange(len(x))
    data = ShardData(x, n.astype(np.int32), n, np.zeros(len(x), np.int32))
    shards = write_shards(folder / "shards", [data], "float32")
    scores = json.loads((folder / "scores.json").read_text())
    assert len(scores) == 4
    for architecture in ("topk", "standard"):
        names = [f"sae_{architecture}_{seed}" for seed in (0, 1)]
        runs = [Run(name, load_sae(folder / name).W_dec.detach().numpy()) for name in names]
        recovery = recover(runs, truth.numpy(), MeasuresConfig(n_null_draws=0))
        assert [scores[name]["mcc"] for name in names] == pytest.approx(recovery.summary.gt_mcc_by_run, abs=1e-5)
        assert np.mean([scores[name]["uniqueness"] for name in names]) == pytest.approx(recovery.summary.uniqueness)
    for name, score in scores.items():
        ours = evaluate(load_sae(folder / name), shards, EvaluationConfig(n_tokens=len(x))).summary
        assert score["sae_l0"] == pytest.approx(ours.l0, abs=2 / len(x))  # a code may round to zero on one side
        assert score["explained_variance"] == pytest.approx(ours.fve, abs=1e-4)
        assert score["dead_latents"] == ours.d_sae - ours.n_alive
        assert 0.3 < score["mcc"] < 1
        assert score["explained_variance"] > 0.3


def test_the_dictionary_of_a_model_of_theirs_is_read_and_their_mcc_is_ours(tmp_path, saelens_python):
    run(saelens_python, MODEL, tmp_path, 10)
    drawn = load_file(tmp_path / "drawn.safetensors")
    truth = load_dictionary(tmp_path / "synthetic_model.safetensors", key="feature_vectors")
    assert truth.W_dec.shape == (24, 16)
    assert match(drawn["other"], truth.W_dec).mcc == pytest.approx(float(drawn["mcc"]), abs=1e-6)
    with pytest.raises(ValueError, match=r"must hold one 2-D array.*say which one by its key"):
        load_dictionary(tmp_path / "synthetic_model.safetensors")


def test_our_saes_of_their_data_score_in_their_bench_as_here(tmp_path, saelens_python):
    run(saelens_python, MODEL, tmp_path, N_SAMPLES)
    x = load_file(tmp_path / "drawn.safetensors")["x"]
    trained(x, tmp_path)
    run(saelens_python, SCORES, tmp_path)
    truth = load_dictionary(tmp_path / "synthetic_model.safetensors", key="feature_vectors")
    assert_same_scores(tmp_path, x, torch.from_numpy(truth.W_dec))


def test_their_bench_runs_on_our_data(tmp_path, saelens_python):
    data = SyntheticData(SyntheticConfig(d_in=16, d_gt=24, k=3, bias=0.5, frequency={"kind": "zipf", "exponent": 0.5}))
    draw = data.draw(N_SAMPLES, seed=0)
    arrays = {"dictionary": data.dictionary, "bias": data.bias, "codes": draw.codes()}
    save_file(arrays, tmp_path / "drawn.safetensors")
    trained(draw.x, tmp_path)
    run(saelens_python, SCORES, tmp_path)
    assert_same_scores(tmp_path, draw.x, data.dictionary)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert all(score["true_l0"] == 3 for score in scores.values())
