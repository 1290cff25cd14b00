"""Synthetic data whose true features are known, and what SAEs find of them: the model organism of the paper.

``data`` makes samples, ``runs`` trains all seeds on them at once, ``points`` measures agreement beside the truth.
"""

from sae_core.synthetic.data import Draw, SyntheticData
from sae_core.synthetic.points import build_point
from sae_core.synthetic.recovery import Recovered, recover, seed_correlation
from sae_core.synthetic.results import PointSummary, Recovery
from sae_core.synthetic.run_summaries import what_recovers
from sae_core.synthetic.runs import TrainedRuns, start_at_truth, train_point

__all__ = [
    "Draw",
    "PointSummary",
    "Recovered",
    "Recovery",
    "SyntheticData",
    "TrainedRuns",
    "build_point",
    "recover",
    "seed_correlation",
    "start_at_truth",
    "train_point",
    "what_recovers",
]
