"""Seconds to explain features lexically: the attributes of the text, then a rule and a text for each feature and half.

    OMP_WAIT_POLICY=passive python -m benchmarks.explanations --tokens 1000000 --features 4096

The text is the start of the model's corpus, its tokens cut into contexts as they are in the pipeline. The features are
made up, so that no SAE must be trained: ``--l0`` of them fire on every token, each for the sake of an attribute of that
token (its word, the word before, a suffix, ...), so that each feature fires on some of the values of attributes, as
features of SAEs do. Wall and CPU time (of all threads).
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from sae_core.config import LexicalExplainer as LexicalSettings
from sae_core.config import ModelConfig
from sae_core.corpus import load_documents, open_contexts, write_contexts
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.explanations import Explanation
from sae_core.explaining.lexical import LexicalExplainer
from sae_core.feature_contexts import N_HALVES, FeatureContexts
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, WORD_SCHEMA
from sae_core.held_out_text import HeldOutText
from sae_core.language_models import load_language_model
from sae_core.store import ArtifactStore
from sae_core.words import Segmenter, mix

ROOT = Path(__file__).resolve().parent.parent


def made_up_features(attributes: TokenAttributes, n_features: int, l0: int) -> FeatureContexts:
    """Features that fire for the sake of attributes: slot i of a token belongs to a feature drawn by an attribute."""
    text = attributes.text
    looked_at = np.flatnonzero(text.half >= 0)
    rng = np.random.default_rng(0)
    tokens, features = [], []
    for slot in range(l0):
        value = attributes.columns[looked_at, slot % attributes.columns.shape[1]]
        drawn = mix(value.astype(np.int64) * l0 + slot) % np.uint64(n_features)
        tokens.append(looked_at[value >= 0])
        features.append(drawn[value >= 0].astype(np.int64))
    pairs = np.unique(np.concatenate(features) * len(text) + np.concatenate(tokens))
    feature, token = np.divmod(pairs, len(text))
    found, n_codes = np.unique(feature, return_counts=True)
    place, half = np.repeat(np.arange(len(found)), n_codes), text.half[token]
    activation = rng.lognormal(size=len(token)).astype(np.float32)
    return FeatureContexts(
        d_sae=n_features,
        features=found,
        n_fired=np.bincount(N_HALVES * place + half, minlength=N_HALVES * len(found)).reshape(-1, N_HALVES),
        n_tokens=np.bincount(text.half[looked_at], minlength=N_HALVES),
        max_activation=np.zeros((len(found), N_HALVES), np.float32),
        promoted=[[] for _ in found],
        code_start=np.append(0, np.cumsum(n_codes)),
        code_token=token,
        code_activation=activation,
        example_table=EXAMPLE_SCHEMA.empty_table(),
        word_table=WORD_SCHEMA.empty_table(),
        looked_at=looked_at,
    )


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the body took."""
    start, start_cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:50} {time.perf_counter() - start:8.1f} s   CPU {time.process_time() - start_cpu:8.1f} s", flush=True)


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "pipelines/defs/models/smollm2/defs.yaml")
    parser.add_argument("--store", default=str(ROOT / ".concord" / "store"), help="keeps the converted language model")
    for name, default in (("tokens", 1_000_000), ("features", 4096), ("l0", 32), ("clauses", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    config = ModelConfig.model_validate(yaml.safe_load(given.model.read_text())["attributes"])
    corpus = config.corpus.model_copy(update={"n_tokens": given.tokens, "held_out_fraction": 0.99})
    model = load_language_model(config, ArtifactStore(given.store))
    with tempfile.TemporaryDirectory() as folder:
        write_contexts(Path(folder), load_documents(corpus.source), model.tokenizer, corpus)
        split = open_contexts(folder).split("held_out")
        text = HeldOutText(split, Segmenter(model.tokenizer, model.special_token_ids))
        with timed(f"words of {len(text):,} tokens"):
            text.words, text.word, text.word_before, text.word_after  # noqa: B018
        with timed("attributes"):
            attributes = TokenAttributes(text)
    features = made_up_features(attributes, given.features, given.l0)
    settings = LexicalSettings() if given.clauses is None else LexicalSettings(n_clauses=given.clauses)
    explainer = LexicalExplainer(settings, features, text, attributes)
    explainer.explain([(0, 0)])  # compiles the kernels, if no run has before
    slots = [(place, half) for place in range(len(features.features)) for half in range(N_HALVES)]
    with timed(
        f"{len(features.features):,} features, {len(features.code_token):,} codes, {settings.n_clauses} clauses"
    ):
        found = explainer.explain(slots)
    print(f"{sum(isinstance(each, Explanation) for each in found):,} explanations of {len(slots):,}")


if __name__ == "__main__":
    main()
