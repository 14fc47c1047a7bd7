"""`python -m server.methods`: the methods of choosing and asking as a JSON list, for `plumbline methods` and the docs.

As `learner.methods` does for those of learning: told by the docstrings of what does it, with the settings' defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Final

from reward.ensemble import COMBINERS
from reward.selection import STRATEGIES, early, entropy, margin
from reward.selection.early import survivors
from reward.selection.stopping import Pandora
from server.config.selection import (
    STEPWISE,
    AutoConfig,
    CompareConfig,
    EarlyRejectConfig,
    PilafConfig,
    SelectionConfig,
    StepwiseConfig,
)
from server.pipeline import exploring, stepwise
from server.wire.methods import METHODS, Method, MethodOption, first_paragraph, options_of, source_of

SCALES: Final = {"soft": "temperature", "pessimistic": "beta"}
"""The setting in `selection` that a strategy reads."""


def methods() -> list[Method]:
    return [*_strategies(), *_combiners(), *_widths(), *_comparisons()]


def _strategies() -> Iterator[Method]:
    settings = SelectionConfig()
    for name, build in STRATEGIES.items():
        one = type(build(settings.temperature, settings.beta))
        options = [option for option in options_of(SelectionConfig) if option.name == SCALES.get(name)]
        needs = "scorers" if one.needs_totals else "candidates"
        yield _of("selection", name, one.__doc__, one.probabilities.__doc__, needs, options=options)
    formula = "argmax rᵢ over the sentences of a step, given those that were kept"
    yield _of("selection", STEPWISE, stepwise.__doc__, formula, "scorers", options=options_of(StepwiseConfig))


def _combiners() -> Iterator[Method]:
    for name, function in COMBINERS.items():
        yield _of("combiner", name, function.__doc__, None, "scorers")


def _widths() -> Iterator[Method]:
    yield _of("best_of", "auto", Pandora.__doc__, Pandora.wants_more.__doc__, "scorers", options=options_of(AutoConfig))
    options = options_of(EarlyRejectConfig)
    yield _of("best_of", "early_reject", early.__doc__, survivors.__doc__, "scorers", options=options)


def _comparisons() -> Iterator[Method]:
    for name, function, setting in (("entropy", entropy, "min_entropy"), ("margin", margin, "max_margin")):
        options = [option for option in options_of(CompareConfig) if option.name == setting]
        yield _of("compare", name, function.__doc__, None, "scorers", options=options)
    formula = (
        "π⁺ ∝ π (π/π_ref)^β against π⁻ ∝ π (π_ref/π)^β: here the adapter's best against one of base, or of the last"
    )
    yield _of("explore", "pilaf", exploring.__doc__, formula, "candidates", options=options_of(PilafConfig))


def _of(
    kind: str,
    name: str,
    docstring: str | None,
    formula: str | None,
    needs: str,
    *,
    options: Iterable[MethodOption] = (),
) -> Method:
    """`formula`: where it stands; None: it is what the docstring begins with."""
    what, source, url = source_of(docstring or "")
    return Method(
        name=name,
        kind=kind,
        what=what,
        source=source,
        url=url,
        formula=first_paragraph(formula) or what,
        options=list(options),
        needs=[needs],
    )


def main() -> int:
    sys.stdout.buffer.write(METHODS.dump_json(methods()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
