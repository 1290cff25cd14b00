"""Did the features of the SAEs change with the language model, or only as much as between seeds?

Beside *consistency*: what its results were with former versions of the model, and how far the dictionaries of two
versions agree, beside how far the seeds within a version do.
"""

from sae_core.model_versions.comparing import VersionsReport, compare_versions
from sae_core.model_versions.results import AcrossVersions, VersionRow, VersionsSummary
from sae_core.model_versions.uncertainty import Across, across_statistics
from sae_core.model_versions.version_runs import NotComparable, VersionRuns
from sae_core.model_versions.versions import Version, earlier_model, version_rows

__all__ = [
    "Across",
    "AcrossVersions",
    "NotComparable",
    "Version",
    "VersionRow",
    "VersionRuns",
    "VersionsReport",
    "VersionsSummary",
    "across_statistics",
    "compare_versions",
    "earlier_model",
    "version_rows",
]
