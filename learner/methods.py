"""`python -m learner.methods`: every method of the learner as a JSON list, for `plumbline methods` and the docs.

Nothing is told twice: kinds come from the tables, what a method is and where it comes from out of its module's
docstring, its formula out of that of `losses` (or what computes it), options and defaults from its fields.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic import BaseModel

from learner import curriculum, gradients, imitation, self_inject, sentences, successes
from learner.augmentation import AUGMENTATIONS
from learner.objectives import OBJECTIVES, Needs, Objective
from learner.objectives.listwise import LISTWISE
from learner.objectives.policy_gradient.advantages import ADVANTAGES
from learner.objectives.policy_gradient.base import PolicyGradient
from learner.objectives.policy_gradient.filtration import FILTRATIONS
from learner.settings import Settings
from learner.weighting import WEIGHTINGS
from server.wire.methods import METHODS, Method, first_paragraph, options_of, source_of

NEEDS: Final = {Needs.PAIRS: "pairs", Needs.UNPAIRED: "thumbs", Needs.REWARDED: "rewards"}
"""By what people call them. Lists may be ranked by people as well as by rewards."""


def methods() -> list[Method]:
    return [*_objectives(), *_weightings(), *_augmentations(), *_of_rewards(), *_of_rounds()]


def _objectives() -> Iterator[Method]:
    for name, kind in OBJECTIVES.items():
        what, source, url = source_of(_module_docstring(kind))
        yield Method(
            name=name,
            kind=kind.__module__.split(".")[2],
            what=what,
            source=source,
            url=url,
            formula=_formula(kind),
            options=options_of(kind),
            needs=[*(["ranks"] if name in LISTWISE else []), NEEDS[kind.needs], *(["images"] if kind().views else [])],
            reads=[*kind.references, *kind().views, *kind().statistics],
        )


def _formula(kind: type[Objective]) -> str:
    """A policy gradient's is in two parts: what stands at a token, and how tokens become an answer's."""
    if issubclass(kind, PolicyGradient):
        at_tokens, of_answer = (first_paragraph(one.__doc__) for one in (kind.token_losses, kind.aggregate))
        of_answer = of_answer.rpartition("Here: ")[2]
        return f"{at_tokens.rstrip('.')}; {of_answer[0].lower()}{of_answer[1:]}"
    return first_paragraph(kind.losses.__doc__)


def _weightings() -> Iterator[Method]:
    for name, one in WEIGHTINGS.items():
        kind = type(one)
        options = options_of(kind) if issubclass(kind, BaseModel) else []
        yield _of("weighting", name, _module_docstring(kind), kind.shares.__doc__, ["pairs", "thumbs"], options=options)


def _augmentations() -> Iterator[Method]:
    for name, function in AUGMENTATIONS.items():
        docstring = function.__doc__ or _module_docstring(function)
        yield _of("augmentation", name, docstring, None, ["images"])


def _of_rewards() -> Iterator[Method]:
    for kind, table in (("advantage", ADVANTAGES), ("filtration", FILTRATIONS)):
        for name, function in table.items():
            yield _of(kind, name, function.__doc__ or "", None, ["rewards"])


def _of_rounds() -> Iterator[Method]:
    """What a setting of the round does, whatever the objectives."""
    told: list[tuple[str, object, str, str, str]] = [
        ("easy_then_hard", curriculum, "the clearest groups first, in every epoch", "pairs", "curriculum"),
        (
            "perturbation",
            curriculum.level,
            "of n steps the t-th changes images by 1 − ⌊4t/n⌋/4",
            "images",
            "curriculum",
        ),
        ("token_mask", sentences, "Δ_w over what only y_w says, Δ_l over what only y_l says", "pairs", "token_mask"),
        ("self_inject", self_inject, "y ≻ y with another answer's sentence in it", "candidates", "self_inject"),
        ("normalized_gradients", gradients, "g_w/‖g_w‖ − g_l/‖g_l‖", "pairs", "normalized_gradients"),
        ("success_below", successes, "worst of poor, like answers → best stored one", "rewards", "success_below"),
        ("sft_share", imitation, "−log π_θ(y|x)/|y| in the first steps", "pairs thumbs", "sft_share"),
    ]
    options = {option.name: option for option in options_of(Settings)}
    for name, what, formula, needs, setting in told:
        docstring = inspect.getdoc(what) or ""
        yield _of("round", name, docstring, formula, needs.split(), options=[options[setting]])


def _of(kind: str, name: str, docstring: str, formula: str | None, needs: list[str], **more: Any) -> Method:
    """`formula`: where it stands; None: it is what the docstring begins with."""
    what, source, url = source_of(docstring.removeprefix(f"`{name}`: "))
    formula = first_paragraph(formula) or what
    return Method(name=name, kind=kind, what=what, source=source, url=url, formula=formula, needs=needs, **more)


def _module_docstring(thing: type | Callable[..., Any]) -> str:
    return inspect.getmodule(thing).__doc__ or ""


def main() -> int:
    sys.stdout.buffer.write(METHODS.dump_json(methods()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
