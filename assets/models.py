"""Language models, watched for new weights."""

import dagster as dg

from assets.keys import model_group, model_key
from sae_core.config import ModelConfig


def model_asset(config: ModelConfig) -> dg.SourceAsset:
    """``model/<name>``: its data version is the digest of the weights and tokenizer as they would be read now."""

    @dg.observable_source_asset(
        key=model_key(config.name),
        group_name=model_group(config.name),
        description=f"Weights and tokenizer of {config.name}; observe it to notice new weights.",
        metadata={"source": dg.MetadataValue.json(config.source.model_dump(mode="json"))},
        tags={"model": config.name, "dagster/kind/huggingface": ""},
    )
    def model() -> dg.ObserveResult:
        from sae_core.model_sources import model_digest

        digest = model_digest(config.source)
        return dg.ObserveResult(data_version=dg.DataVersion(digest), metadata={"digest": digest})

    return model
