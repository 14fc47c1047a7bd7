"""Several scorers as one judge of taste. Fails open.

ensemble      asks the scorers, leaves out what failed, combines the rest
calibration   scorers' values in a common unit, learned as they come
combining     parts → one total, and what length costs
"""

from reward.ensemble.calibration import Calibration
from reward.ensemble.combining import COMBINERS, LengthPenalty
from reward.ensemble.ensemble import Ensemble, Member, Scored

__all__ = ["COMBINERS", "Calibration", "Ensemble", "LengthPenalty", "Member", "Scored"]
