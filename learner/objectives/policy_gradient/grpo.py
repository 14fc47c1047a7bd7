"""GRPO. Shao et al. 2024, https://arxiv.org/abs/2402.03300, eq. 3.

With `importance_sampling_level = "sequence"` (and an ε of 3e-4, `epsilon_high` 4e-4) it is GSPO.
"""

from __future__ import annotations

from learner.objectives.policy_gradient.base import Clipped


class Grpo(Clipped):
    """Clipped surrogate of group-normalised advantages; mean over each answer's tokens."""
