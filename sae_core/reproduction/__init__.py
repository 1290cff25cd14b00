"""The paper's numbers beside ours: the last stage of a synthetic study.

Points (``sae_core.synthetic``) -> experiments, each a table and a figure -> **reproduction**: one page.
"""

from sae_core.reproduction.claims import LanguageModelResult
from sae_core.reproduction.figures import experiment_figure
from sae_core.reproduction.schema import schema_digest
from sae_core.reproduction.tables import experiment_table
from sae_core.reproduction.writing import read_points, write_experiment, write_reproduction

__all__ = [
    "LanguageModelResult",
    "experiment_figure",
    "experiment_table",
    "read_points",
    "schema_digest",
    "write_experiment",
    "write_reproduction",
]
