"""Activations of a language model at one hook point, as Parquet shards."""

from collections.abc import Sequence

import dagster as dg

from assets.checks import activation_checks, check_specs
from assets.code_versions import activations_version, versioned
from assets.descriptions import activations_text
from assets.keys import activations_key, corpus_key, model_key
from assets.launching import ActivationsLaunch
from assets.options import model_options
from assets.recording import StoreResource, progress_of, record
from sae_core.chain import make_activations
from sae_core.config import ModelConfig, StudyConfig


def activations_asset(model: ModelConfig, hook: str, studies: Sequence[StudyConfig] = ()) -> dg.AssetsDefinition:
    """``activations/<model>/<hook>``: the text as contexts, and what the model makes of them at that hook.

    Args:
        studies: those that read them, which decide together whether they are made by themselves.
    """
    key = activations_key(model.name, hook)

    @dg.asset(
        key=key,
        deps=[model_key(model.name), corpus_key(model.name)],
        **versioned(activations_version(model, hook)),
        kinds={"pytorch", "parquet"},
        **model_options(model, studies),
        description=activations_text(model, hook),
        check_specs=check_specs(key, activation_checks),
    )
    def activations(
        context: dg.AssetExecutionContext, config: ActivationsLaunch, store: StoreResource
    ) -> dg.MaterializeResult:
        progress = progress_of(context, f"activations of {hook}")
        made = make_activations(store.open(), config.apply(model), hook, progress)
        summary = made["activations"].summary
        return record(
            {"activations": made["activations"], "contexts": made["contexts"]},
            metadata={
                "dagster/row_count": summary["n_train_tokens"],
                "model_digest": made["contexts"].manifest.inputs["model"],
                **summary,
            },
            check_results=activation_checks(key, made),
        )

    return activations
