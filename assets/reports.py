"""The report of a study."""

import dagster as dg

from assets.keys import StudyKeys
from assets.options import Pool, study_options
from assets.partitions import all_partitions, run_key
from assets.pictures import report_metadata
from assets.recording import StoreResource, progress_of, record, upstream, upstream_if_any
from sae_core.chain import CODE_VERSION, make_report
from sae_core.config import ModelConfig, StudyConfig
from sae_core.store import Artifact, ArtifactStore


def report_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/report``: the table of variants, the figures, and one self-contained page."""
    keys = StudyKeys(study.name)
    sources = (keys.sae, keys.consistency, keys.explanations, keys.scores, keys.similarity)

    @dg.asset(
        key=keys.report,
        deps=[all_partitions(key) for key in sources],
        code_version=CODE_VERSION["report"],
        kinds={"html"},
        **study_options(study, Pool.MEASURING),
        description=f"Report of study {study.name}.",
    )
    def report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened = store.open()
        variants = {variant.key: _of_variant(context, opened, study, variant.key) for variant in study.variants}
        made = make_report(opened, study, model, variants, progress_of(context, "report"))
        return record({"report": made}, metadata=report_metadata(made))

    return report


def _of_variant(
    context: dg.AssetExecutionContext, store: ArtifactStore, study: StudyConfig, variant: str
) -> dict[str, Artifact]:
    keys = StudyKeys(study.name)
    found = upstream(context, store, keys.consistency, variant) | upstream(context, store, keys.similarity, variant)
    for run_name, seed in study.run_names().items():
        run = upstream(context, store, keys.sae, run_key(variant, seed))
        run |= upstream(context, store, keys.explanations, run_key(variant, seed))
        # Scores may be missing: the report then says so.
        run |= upstream_if_any(context, store, keys.scores, run_key(variant, seed)) or {}
        found |= {f"{name} {run_name}": artifact for name, artifact in run.items()}
    return found
