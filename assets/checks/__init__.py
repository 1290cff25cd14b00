"""What should hold of each stage, as asset checks: errors where a result would be wrong, warnings where it is poor.

One file a stage. ``docs/alerts.md`` lists them all, with the threshold of each and what to do when it fails.
"""

from assets.checks.activations import activation_checks
from assets.checks.common import Check, check_specs, declared_checks
from assets.checks.consistency import consistency_blocking, consistency_checks, not_lower
from assets.checks.contexts import context_checks
from assets.checks.earlier import Agreement, earlier_agreement
from assets.checks.explanations import explanation_checks
from assets.checks.in_store import in_store_checks
from assets.checks.reports import model_versions_checks, report_checks, reproduction_checks
from assets.checks.saes import sae_checks
from assets.checks.scores import score_checks
from assets.checks.similarity import similarity_checks
from assets.checks.synthetic import experiment_checks

__all__ = [
    "Agreement",
    "Check",
    "activation_checks",
    "check_specs",
    "consistency_blocking",
    "consistency_checks",
    "context_checks",
    "declared_checks",
    "earlier_agreement",
    "experiment_checks",
    "explanation_checks",
    "in_store_checks",
    "model_versions_checks",
    "not_lower",
    "report_checks",
    "reproduction_checks",
    "sae_checks",
    "score_checks",
    "similarity_checks",
]
