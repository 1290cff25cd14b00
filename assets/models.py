"""Language models and their texts, watched for changes."""

from collections.abc import Callable, Sequence

import dagster as dg

from assets.automation import first_look
from assets.descriptions import model_text
from assets.keys import corpus_key, model_group, model_key
from sae_core.config import ModelConfig


def model_asset(config: ModelConfig, automated: bool = False) -> dg.SourceAsset:
    """``model/<name>``: its data version is the digest of the weights and tokenizer as they would be read now.

    Args:
        automated: look at it once without being asked, for something is waiting for it.
    """

    @dg.observable_source_asset(
        key=model_key(config.name),
        group_name=model_group(config.name),
        description=model_text(config),
        metadata={"source": dg.MetadataValue.json(config.source.model_dump(mode="json"))},
        tags={"model": config.name, "dagster/kind/huggingface": ""},
        automation_condition=first_look() if automated else None,
    )
    def model() -> dg.ObserveResult:
        from sae_core.model_sources import model_digest

        return _observed(lambda: model_digest(config.source))

    return model


def corpus_asset(config: ModelConfig, automated: bool = False) -> dg.SourceAsset:
    """``corpus/<model>``: its data version is the digest of the text as it would be read now.

    Args:
        automated: as for the model.
    """

    @dg.observable_source_asset(
        key=corpus_key(config.name),
        group_name=model_group(config.name),
        description=f"Text that {config.name} reads; observe it to notice another text.",
        metadata={
            "source": dg.MetadataValue.json(config.corpus.source.model_dump(mode="json")),
            "credit": config.corpus.credit,
        },
        tags={"model": config.name, "dagster/kind/text": ""},
        automation_condition=first_look() if automated else None,
    )
    def corpus() -> dg.ObserveResult:
        from sae_core.corpus_sources import corpus_digest

        return _observed(lambda: corpus_digest(config.corpus.source))

    return corpus


def sources(config: ModelConfig) -> Sequence[dg.AssetKey]:
    """What is observed of a model file."""
    return model_key(config.name), corpus_key(config.name)


def _observed(digest: Callable[[], str]) -> dg.ObserveResult:
    """The digest as data version.

    Raises:
        dagster.Failure: if what is to be looked at is gone or is not what was expected. Nothing is observed then, so
            what was made of it before stays as fresh as it was.
    """
    try:
        found = digest()
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        # Trying again changes nothing; where the hub cannot be reached (ConnectionError) it may.
        raise dg.Failure(f"{error}; nothing is made anew, and all results stay", allow_retries=False) from error
    return dg.ObserveResult(data_version=dg.DataVersion(found), metadata={"digest": found})
