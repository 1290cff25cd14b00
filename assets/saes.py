"""Trained SAEs, one partition a variant and seed."""

from typing import Any

import dagster as dg

from assets.checks import check_specs, sae_checks
from assets.code_versions import sae_version, versioned
from assets.descriptions import sae_text
from assets.keys import StudyKeys, activations_key
from assets.launching import SaeLaunch
from assets.options import Pool, study_options
from assets.partitions import split_run_key, study_partitions
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.chain import make_evaluation, make_run
from sae_core.config import ModelConfig, StudyConfig
from sae_core.store import Artifact


def sae_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/sae`` [variant x seed]: the SAE, and what it is worth on held-out tokens."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.sae,
        deps=[source],
        partitions_def=study_partitions(study).runs,
        **versioned(sae_version(study, model)),
        kinds={"pytorch"},
        **study_options(study, Pool.TRAINING),
        description=sae_text(study),
        check_specs=check_specs(keys.sae, sae_checks, study.checks.blocking),
    )
    def sae(context: dg.AssetExecutionContext, config: SaeLaunch, store: StoreResource) -> dg.MaterializeResult:
        key, seed = split_run_key(context)
        opened, progress = store.open(), progress_of(context, f"{key}, seed {seed}")
        made_of = upstream(context, opened, source)
        trained = make_run(opened, made_of["activations"], config.apply(study), key, seed, progress)
        evaluation = make_evaluation(opened, trained, made_of, model, study.evaluation, progress)
        return record(
            {"sae": trained, "evaluation": evaluation},
            metadata=_metadata(trained, evaluation),
            check_results=sae_checks(
                keys.sae,
                trained,
                evaluation,
                made_of["activations"].summary["d_in"],
                study.variant(key),
                study.checks,
            ),
        )

    return sae


def _metadata(trained: Artifact, evaluation: Artifact) -> dict[str, Any]:
    """Numbers, which the UI plots over materializations, and the training curves as a small table."""
    from sae_core.training.curves import few_points

    numbers = {f"training/{name}": value for name, value in trained.summary.items()} | evaluation.summary
    points = [dg.TableRecord(point) for point in few_points(trained.path)]
    return numbers | ({"training curves": dg.MetadataValue.table(points)} if points else {})
