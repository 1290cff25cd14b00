"""What Dagster loads: the model and study files, the jobs for them, and the store they share."""

import logging
import warnings

import dagster as dg

from assets.recording import StoreResource, default_store_root
from assets.up_to_date import status_definitions
from pipelines.alerts import alert_definitions
from pipelines.automation import automation_definitions
from pipelines.jobs import project_jobs
from pipelines.killed_runs import killed_runs_definitions
from pipelines.project import project_files
from pipelines.verifying import verify_definitions

# Beta parts of Dagster that are in use, each covered by a test: observable sources, multi-dimensional partitions.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset of ``pipelines/defs``, each stage of a process in turn (training uses all cores by itself).

    What is broken there has an asset in the group ``broken`` and a warning in the log, and takes nothing else down.
    """
    files = project_files()
    for file in files.broken:
        logging.getLogger("dagster").warning("%s", file)
    shared = dg.Definitions(
        resources={"store": StoreResource(root=default_store_root())}, executor=dg.in_process_executor
    )
    assets = dg.Definitions.merge(files.definitions, shared)
    studies, synthetic = [study for study, _ in files.studies.values()], files.synthetic.values()
    return dg.Definitions.merge(
        assets,
        dg.Definitions(jobs=project_jobs(files, assets)),
        automation_definitions(files.models.values(), studies, synthetic),
        status_definitions(studies, synthetic, assets),
        alert_definitions(),
        killed_runs_definitions(),
        verify_definitions(assets),
    )
