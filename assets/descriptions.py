"""What the UI says of each asset, as Markdown: what it is, its formula, and what its numbers mean, with their units."""

from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import ExperimentConfig, SyntheticStudyConfig


def model_text(config: ModelConfig) -> str:
    """Of ``model/<name>``."""
    return (
        f"Weights and tokenizer of **{config.name}**. The data version is the digest of what would be read now: a new "
        f"one makes all that was read from the model out of date. `observe_…` looks (`{config.observe_cron}`)."
    )


def activations_text(config: ModelConfig, hook: str) -> str:
    """Of ``activations/<model>/<hook>``."""
    numbers = {
        "n_train_tokens, n_held_out_tokens": "tokens stored; SAEs are trained on the first, measured on the second",
        "d_in": "width of an activation",
        "mean_squared_norm, max_norm": "of the stored activations, in the model's own scale",
        "n_left_out": f"tokens left out for a norm above {config.activations.max_norm_ratio} times the median",
    }
    return _text(
        f"Output of `{hook}` of **{config.name}** (forward pass in {config.dtype}) on its text, cut into contexts of "
        f"{config.corpus.context_length} tokens; special tokens, first positions and attention sinks left out. "
        f"Stored as {config.activations.dtype}; {config.corpus.held_out_fraction:.0%} of the documents are held out.",
        numbers,
    )


def sae_text(study: StudyConfig) -> str:
    """Of ``<study>/sae``."""
    numbers = {
        "l0": "features active on a token, mean",
        "fve": "fraction of variance explained, `1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²`: at most 1, below 0 worse than the mean",
        "loss_recovered": "`(ce_zero − ce_patched) / (ce_zero − ce_clean)`: 1 all of the model's loss survives, 0 none",
        "ce_clean, ce_patched, ce_zero": "next-token loss (nats) of the model itself, with reconstructions, with zeros",
        "dead_fraction, n_alive": "share of features that never fired on the held-out tokens; number of those that did",
        "n_dense": "features that fire on more than a tenth of the tokens",
        "reconstruction_norm_ratio": "mean norm of reconstructions over that of activations; below 1 is shrinkage",
        "training/…": "the last point of the training curves (loss for activations of unit mean squared norm), "
        "`training/tokens_per_second` of this machine",
    }
    seeds = ", ".join(map(str, study.seeds))
    return _text(
        f"SAEs of study **{study.name}**, one partition a variant and seed: {len(study.variants)} variants, seeds "
        f"{seeds}, which change {' and '.join(study.vary)}. Trained or imported, then measured on held-out tokens.",
        numbers,
    )


def consistency_text(study: StudyConfig) -> str:
    """Of ``<study>/consistency``."""
    numbers = {
        "pw_mcc": "the formula above, in [0, 1]: 1 the seeds found the same features, up to order and sign",
        "ci_low, ci_high": "95 % interval over seeds (jackknife)",
        "null_sign_flip, null_isotropic": "what dictionaries of the same shape score by chance; never read PW-MCC "
        "without it",
        "kappa_sign_flip": "agreement beyond chance, `(PW-MCC − null) / (1 − null)`: compare variants by it",
        "pw_mcc_alive, pw_mcc_signed": "among features that fired; with the cosine in place of its absolute value",
        "shared_fraction": "share of matched pairs whose absolute cosine reaches a threshold",
        "certified": "whether every matching is proven optimal",
    }
    return _text(
        f"Do the {len(study.seeds)} seeds of a variant find the same features? Pairwise mean correlation coefficient "
        "(Song et al. 2025, arXiv 2505.20254), over all pairs of seeds `i < j`, with unit decoder rows `d` and the "
        "best one-to-one matching `π` (exact assignment):\n\n"
        "```\n"
        "MCC(i, j) = max over π of  (1 / n) · Σ_f |⟨d_i,f , d_j,π(f)⟩|\n"
        "PW-MCC    = mean of MCC(i, j) over i < j\n"
        "```",
        numbers,
    )


def contexts_text(study: StudyConfig) -> str:
    """Of ``<study>/contexts``."""
    return _text(
        f"Where every feature of an SAE of **{study.name}** fires on held-out text, and where it does not, with its "
        "strength on each token. Each half of the documents for itself, so that explanations can be scored on text "
        "that did not make them.",
        {"examples": "some features with the text on which they fire most"},
    )


def explanations_text(study: StudyConfig) -> str:
    """Of ``<study>/explanations``."""
    explainers = study.explanations.explainers
    numbers = {
        "n_explanations/…, n_missing/…": "explanations made and not made, of features and corpus halves, by explainer; "
        f"a feature that fired fewer than {study.explanations.min_activations} times in a half has none there",
        "examples/…": "some of them, to read",
    }
    named = ", ".join(f"{explainer.name} ({explainer.kind})" for explainer in explainers)
    return _text(
        "What a feature responds to, in words, from held-out contexts; each half of the corpus explains for itself. "
        f"By {named}.",
        numbers,
    )


def scores_text(study: StudyConfig) -> str:
    """Of ``<study>/explanation_scores``."""
    numbers = {
        "detection_auc/…": "area under the ROC curve: can the explanation tell examples on which the feature fires "
        "from others? 0.5 is chance, 1 always",
        "fuzzing_…/…": "the same for marked tokens within an example",
        "simulation_…/…": "correlation of the strength that the explanation predicts with the measured one, in [−1, 1]",
        "embedding_…/…": "as detection, by the cosine of sentence embeddings",
    }
    return _text(
        f"Does an explanation of **{study.name}** predict where its feature fires, on the half of the text that did "
        "not make it? Medians over explanations, by explainer; `table` has them all.",
        numbers,
    )


def similarity_text(study: StudyConfig) -> str:
    """Of ``<study>/explanation_similarity``."""
    numbers = {
        "rho_partial/…": "Spearman's rank correlation of cosine and similarity over matched pairs, frequency held "
        "constant; `rho/…` without that",
        "permutation_p/…": f"p value of it, from {study.similarity.n_permutations} permutations within strata of "
        "frequency",
        "lift/…": "similarity of matched pairs minus that of random pairs of equal frequency (decoys)",
        "auc/…": "how often a matched pair is more alike than a decoy: 0.5 chance, 1 always; `auc_shuffled/…` must be "
        "near 0.5",
        "noise_ceiling/…": "the same feature against itself, from the two halves of the text: more cannot be expected",
        "n_used/…, n_asked/…": "matched pairs with both explanations, and those there are",
    }
    return _text(
        "Do features that seeds agree on also mean the same? The two explanations of a matched pair, from disjoint "
        "halves of the text, by several measures of similarity.",
        numbers,
    )


def report_text(study: StudyConfig) -> str:
    """Of ``<study>/report``."""
    return _text(
        f"The report of study **{study.name}**: table of variants, figures, one self-contained page (`page`).",
        {"highest_…": "numbers of the variant with the highest PW-MCC; it was picked on these seeds, so they are a "
         "little too good"},
    )  # fmt: skip


def experiment_text(study: SyntheticStudyConfig, experiment: ExperimentConfig) -> str:
    """Of ``<study>/<experiment>``."""
    numbers = {
        "gt_mcc/…": "mean absolute cosine of learnt and true features under the best matching, over seeds; 1: found",
        "pw_mcc/…": "agreement of the seeds with each other, as for language models",
    }
    return _text(
        f"{experiment.title}. Data whose true features are known; all seeds of every point of **{study.name}**.",
        numbers,
    )


def reproduction_text(study: SyntheticStudyConfig, language_model: StudyConfig | None) -> str:
    """Of ``<study>/reproduction``."""
    text = f"What was published, what came out of **{study.name}** here, and a verdict on every number."
    if language_model:
        text += (
            f" Results of the study {language_model.name} stand there too, as far as there are any; without them it is "
            "made all the same, whatever the question before materializing says."
        )
    return text


def _text(what: str, numbers: dict[str, str]) -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in numbers.items())
    return f"{what}\n\n| number | meaning |\n|-|-|\n{rows}"
