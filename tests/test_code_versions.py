"""A changed setting makes stale exactly the assets whose artifacts it decides."""

import dagster as dg
import pytest

from assets.code_versions import STEP_TAG
from assets.components import model_definitions, study_definitions, synthetic_definitions
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

MODEL = {
    "name": "m",
    "source": {"kind": "local", "path": "somewhere"},
    "corpus": {"source": {"kind": "local", "path": "text.txt"}},
    "hooks": ["h.1"],
}
CHAT = {"kind": "openai", "name": "chat", "model": "some-model"}
STUDY = {
    "name": "s",
    "model": "m",
    "hook": "h.1",
    "variants": [{"architecture": "topk", "d_sae": 16, "k": 2}],
    "seeds": [0, 1, 2],
    "training": {"n_steps": 100, "warmup_steps": 0, "sparsity_warmup_steps": 0, "data_fraction": 0.5},
    "explanations": {"explainers": [{"kind": "lexical"}, CHAT | {"n_pairs": 10}]},
    "scoring": {"scorer": {"kind": "openai", "model": "some-model"}},
    "similarity": {"judge": {"kind": "openai", "model": "some-model"}},
}
GROUP = {
    "data": [{"d_in": 4, "d_gt": 4, "k": 1}],
    "variants": [{"architecture": "standard", "d_sae": 4, "l1_coefficient": 0.1}],
    "recipes": ["r"],
}
SYNTHETIC = {
    "name": "y",
    "seeds": [0, 1],
    "recipes": {"r": {"n_steps": 5}, "unused": {"n_steps": 6}},
    "experiments": [
        {"name": "e", "title": "e", "groups": [GROUP]},
        {"name": "f", "title": "f", "groups": [GROUP | {"seeds": [0, 1]}]},
    ],
    "language_model_study": "s",
}


def versions(model=MODEL, study=STUDY, synthetic=SYNTHETIC):
    """Code version of every asset, by its short name."""
    model, study = ModelConfig.model_validate(model), StudyConfig.model_validate(study)
    parts = [
        model_definitions(model, [study]),
        study_definitions(study, model),
        synthetic_definitions(SyntheticStudyConfig.model_validate(synthetic), study),
    ]
    assets = [asset for part in parts for asset in part.assets if isinstance(asset, dg.AssetsDefinition)]
    return {asset.key.path[0] if asset.key.path[0] == "activations" else asset.key.path[-1]: asset for asset in assets}


def changed(settings, path, value):
    """The settings with another value at a dotted path; numbers are places of a list."""
    head, _, rest = path.partition(".")
    if isinstance(settings, list):
        number = int(head)
        return [changed(each, rest, value) if i == number else each for i, each in enumerate(settings)]
    return {**settings, head: changed(settings.get(head, {}), rest, value) if rest else value}


FROM_EXPLANATIONS = {"explanations", "report"}
FOR_STUDY = [
    ("training.n_steps", 200, {"sae", "report"}),
    ("training.device", "cpu", {"report"}),
    ("training.resume_minutes", 5, {"report"}),
    ("vary", ["init", "order"], {"sae", "report"}),
    ("evaluation.n_tokens", 10, {"sae", "report"}),
    ("evaluation.n_loss_contexts", 10, {"sae", "report"}),
    ("consistency.n_null_draws", 1, {"consistency", "report"}),
    ("consistency.seed", 1, {"consistency", "report"}),
    ("contexts.before", 3, {"contexts", "report"}),
    ("seeds", [0, 1], {"consistency", "explanation_similarity", "report"}),
    ("seeds", [0, 1, 2, 3], {"consistency", "explanation_similarity", "report"}),
    ("variants", [*STUDY["variants"], {"architecture": "topk", "d_sae": 16, "k": 3}], {"report", "reproduction"}),
    ("explanations.n_features", 5, FROM_EXPLANATIONS),
    ("explanations.min_activations", 5, FROM_EXPLANATIONS | {"explanation_similarity"}),
    ("explanations.seed", 5, FROM_EXPLANATIONS | {"explanation_similarity"}),
    ("explanations.explainers.0.n_clauses", 5, FROM_EXPLANATIONS),
    ("explanations.explainers.1.model", "other", FROM_EXPLANATIONS),
    ("explanations.explainers.1.n_pairs", 11, FROM_EXPLANATIONS | {"explanation_similarity"}),
    ("explanations.explainers.1.max_concurrency", 1, {"report"}),
    ("explanations.explainers.1.api_key_env", "OTHER", {"report"}),
    ("explanations.explainers.1.timeout_s", 5, {"report"}),
    ("scoring.n_activating", 3, {"explanation_scores", "report"}),
    ("scoring.scorer.model", "other", {"explanation_scores", "report"}),
    ("scoring.scorer.max_retries", 9, {"report"}),
    ("embedder.dtype", "bfloat16", {"explanation_scores", "explanation_similarity", "report"}),
    ("embedder.source.kind", "package", set()),
    ("similarity.n_decoys", 2, {"explanation_similarity", "report"}),
    ("similarity.judge.model", "other", {"explanation_similarity", "report"}),
    ("similarity.judge.max_concurrency", 1, {"report"}),
    ("checks.min_fve", 0.1, {"report"}),
    ("automation", "eager", set()),
    ("owners", ["someone@example.org"], set()),
]
FOR_MODEL = [
    ("dtype", "float32", {"activations", "sae"}),
    ("device", "cpu", set()),
    ("source.path", "elsewhere", set()),  # what lies there is observed
    ("corpus.source.path", "elsewhere.txt", set()),
    ("corpus.source.column", "body", {"activations"}),
    ("corpus.credit", "Someone, CC0", {"report"}),
    ("corpus.context_length", 64, {"activations"}),
    ("corpus.n_tokens", 1000, {"activations"}),
    ("corpus.held_out_fraction", 0.5, {"activations"}),
    ("activations.shard_tokens", 1024, {"activations"}),
    ("activations.max_norm_ratio", None, {"activations"}),
    ("observe_cron", "0 0 * * *", set()),
    ("owners", ["someone@example.org"], set()),
]
FOR_SYNTHETIC = [
    ("seeds", [0, 1, 2], {"e", "reproduction"}),
    ("recipes.r.n_steps", 9, {"e", "f", "reproduction"}),
    ("recipes.unused.n_steps", 9, {"reproduction"}),
    ("experiments.1.groups.0.seeds", [0, 1, 2], {"f", "reproduction"}),
    ("experiments.0.title", "another", {"reproduction"}),
    ("automation", "eager", set()),
    ("owners", ["someone@example.org"], set()),
]


@pytest.mark.parametrize(
    ("file", "path", "value", "stale"),
    [
        *(("study", *change) for change in FOR_STUDY),
        *(("model", *change) for change in FOR_MODEL),
        *(("synthetic", *change) for change in FOR_SYNTHETIC),
    ],
)
def test_a_changed_setting_makes_stale_what_it_decides_and_nothing_else(file, path, value, stale):
    settings = {"model": MODEL, "study": STUDY, "synthetic": SYNTHETIC}
    before, after = versions(), versions(**{file: changed(settings[file], path, value)})
    found = {name for name, asset in after.items() if _version(asset) != _version(before[name])}
    assert found - {"model_versions"} == stale


def test_a_scorer_decides_nothing_where_all_explanations_are_rules():
    rules = changed(STUDY, "explanations.explainers", [{"kind": "lexical"}])
    before, after = versions(study=rules), versions(study=changed(rules, "scoring.scorer.model", "other"))
    assert _version(after["explanation_scores"]) == _version(before["explanation_scores"])


def test_another_list_of_pretrained_saes_makes_their_variant_stale():
    variant = {"architecture": "pretrained", "name": "theirs", "saes": ["a", "b", "c"]}
    study = {name: value for name, value in STUDY.items() if name != "training"} | {"variants": [variant]}
    before = versions(study=study)
    for path, value in (("variants.0.saes", ["a", "b", "d"]), ("variants.0.format", "saelens")):
        after = versions(study=changed(study, path, value))
        assert _version(after["sae"]) != _version(before["sae"])
        assert _version(after["consistency"]) == _version(before["consistency"])


def test_the_plan_of_a_run_keeps_the_code_version():
    for asset in versions().values():
        assert asset.node_def.tags[STEP_TAG] == _version(asset)


def _version(asset):
    return asset.code_versions_by_key[asset.key]
