"""Consistency: how far independently trained runs found the same features. Third stage of the flow.

``compare_runs`` puts together what is known of all runs; the modules beside it each measure one thing.
"""

from sae_core.consistency.compare_runs import consistency, pw_mcc, write_consistency
from sae_core.consistency.consensus_dictionary import Consensus, consensus
from sae_core.consistency.core_sizes import core_curve
from sae_core.consistency.group_comparison import DisjointGroups, disjoint_groups
from sae_core.consistency.nulls import chance_corrected, null_mcc, null_mmcs, second_moment_null, sign_flip_null
from sae_core.consistency.results import ConsistencyReport, ConsistencySummary, CosineHistogram, FrequencyBin
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import StableCore, cycle_consistency, stable_core
from sae_core.consistency.statistics import Interval, VariantComparison, compare_variants, jackknife

__all__ = [
    "Consensus",
    "ConsistencyReport",
    "ConsistencySummary",
    "CosineHistogram",
    "DisjointGroups",
    "FrequencyBin",
    "Interval",
    "Run",
    "StableCore",
    "VariantComparison",
    "chance_corrected",
    "compare_variants",
    "consensus",
    "consistency",
    "core_curve",
    "cycle_consistency",
    "disjoint_groups",
    "jackknife",
    "null_mcc",
    "null_mmcs",
    "pw_mcc",
    "second_moment_null",
    "sign_flip_null",
    "stable_core",
    "write_consistency",
]
