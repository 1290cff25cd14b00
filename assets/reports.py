"""The report of a study."""

import dagster as dg

from assets.checks import check_specs, report_checks
from assets.code_versions import report_version, versioned
from assets.descriptions import report_text
from assets.keys import StudyKeys
from assets.options import Pool, study_options
from assets.partitions import all_partitions, run_key
from assets.pictures import report_metadata
from assets.recording import StoreResource, progress_of, record, upstream, upstream_if_any
from sae_core.chain import make_report
from sae_core.config import ModelConfig, StudyConfig
from sae_core.store import Artifact, ArtifactStore


def report_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/report``: the table of variants, the figures, and one self-contained page."""
    keys = StudyKeys(study.name)
    sources = (keys.sae, keys.consistency, keys.model_versions, keys.explanations, keys.scores, keys.similarity)

    @dg.asset(
        key=keys.report,
        deps=[all_partitions(key) for key in sources],
        **versioned(report_version(study, model)),
        kinds={"html"},
        **study_options(study, Pool.MEASURING),
        description=report_text(study),
        check_specs=check_specs(keys.report, report_checks, study.checks.blocking),
    )
    def report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened = store.open()
        variants = {variant.key: _of_variant(context, opened, study, variant.key) for variant in study.variants}
        made = make_report(opened, study, model, variants, progress_of(context, "report"))
        checks = report_checks(keys.report, made, study.checks)
        return record({"report": made}, metadata=report_metadata(made), check_results=checks)

    return report


def _of_variant(
    context: dg.AssetExecutionContext, store: ArtifactStore, study: StudyConfig, variant: str
) -> dict[str, Artifact]:
    keys = StudyKeys(study.name)
    found = upstream(context, store, keys.consistency, variant) | upstream(context, store, keys.similarity, variant)
    found |= upstream(context, store, keys.model_versions, variant)
    for run_name, seed in study.run_names().items():
        run = upstream(context, store, keys.sae, run_key(variant, seed))
        run |= upstream(context, store, keys.explanations, run_key(variant, seed))
        # Scores may be missing: the report then says so.
        run |= upstream_if_any(context, store, keys.scores, run_key(variant, seed)) or {}
        found |= {f"{name} {run_name}": artifact for name, artifact in run.items()}
    return found
