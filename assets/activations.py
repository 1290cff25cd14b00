"""Activations of a language model at one hook point, as Parquet shards."""

import dagster as dg

from assets.checks import activation_checks, check_specs
from assets.keys import activations_key, model_key
from assets.options import model_options
from assets.recording import StoreResource, progress_of, record
from sae_core.chain import CODE_VERSION, make_activations
from sae_core.config import ModelConfig
from sae_core.store import digest_json


def activations_asset(config: ModelConfig, hook: str) -> dg.AssetsDefinition:
    """``activations/<model>/<hook>``: the text as contexts, and what the model makes of them at that hook."""
    key = activations_key(config.name, hook)
    settings = digest_json([hook, config.model_dump(mode="json", include={"dtype", "corpus", "activations"})])[:8]

    @dg.asset(
        key=key,
        deps=[model_key(config.name)],
        code_version=f"{CODE_VERSION['contexts']}.{CODE_VERSION['activations']}.{settings}",
        kinds={"pytorch", "parquet"},
        **model_options(config),
        description=f"Output of {hook} of {config.name} on the corpus, special tokens and first positions left out.",
        check_specs=check_specs(key, activation_checks),
    )
    def activations(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        made = make_activations(store.open(), config, hook, progress_of(context, f"activations of {hook}"))
        summary = made["activations"].summary
        return record(
            {"activations": made["activations"], "contexts": made["contexts"]},
            metadata={
                "dagster/row_count": summary["n_train_tokens"],
                "model_digest": made["contexts"].manifest.inputs["model"],
                **summary,
            },
            check_results=activation_checks(key, made["activations"]),
        )

    return activations
