"""What Dagster loads: the model and study files, and the store they share."""

import warnings
from pathlib import Path

import dagster as dg

from assets.recording import StoreResource, default_store_root

# Beta parts of Dagster that are in use, each covered by a test: observable sources, multi-dimensional partitions.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset of ``pipelines/defs``, each stage of a process in turn (training uses all cores by itself)."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    shared = dg.Definitions(
        resources={"store": StoreResource(root=default_store_root())}, executor=dg.in_process_executor
    )
    return dg.Definitions.merge(loaded, shared)
