"""How much less an older opinion counts than a new one, where people change their minds. Pure.

A weight of ½ to the power of age / half-life: the forgetting factor of exponentially weighted least squares. Age is
counted in what people said since, of what is kept, and not in hours: a quiet month changes nobody's taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from learner.examples import Example


def aged(examples: Sequence[Example], half_life: int | None) -> list[Example]:
    """The examples (oldest first) with their `recency` set; None: all count alike. Doing it twice changes nothing.

    What one group holds is of one age. What rules and scorers say belongs to the operator and neither ages nor counts.
    """
    since, found = 0, []
    for example in reversed(examples):
        found.append(replace(example, recency=1.0 if half_life is None else 0.5 ** (since / half_life)))
        since += example.opinions
    return found[::-1]
