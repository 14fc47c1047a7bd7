"""What a body that does not fit its model is told: the field, what is wrong with it, and what may have been meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from server.errors import BadRequest

OWN_WORDS: Final = frozenset({"detail", "logit_bias", "metadata", "metrics", "objective", "sources", "tags"})
"""Fields whose keys are the sender's own words; everywhere else a key is a field's name, or unknown."""

_BRANCH: Final = re.compile(r".*[^\w.-].*|constrained-\w+|str|int|float|bool|none")
"""What pydantic puts into a location for one alternative of a union: a type's name, where a field's name would be."""
_UNKNOWN: Final = "extra_forbidden"
_OTHER_TYPE: Final = re.compile(r"\w+_type|literal_error")


def bad_request(error: ValidationError, model: type[BaseModel]) -> BadRequest:
    """The first wrong field. Never quotes what stands there."""
    alternatives = _alternatives(error.errors(include_url=False, include_input=False))
    first = alternatives[0]
    path = _path(first["loc"]) or None
    if first["type"] == _UNKNOWN:
        meant = _meant(model, first["loc"])
        path = ".".join([*([_path(first["loc"][:-1])] if len(first["loc"]) > 1 else []), str(first["loc"][-1])])
        message = f"Unknown parameter: {path}." + (f" Is {meant} meant?" if meant else "")
        return BadRequest(message, param=path, code="unknown_parameter")
    said = [_words(one) for one in alternatives]
    message = ", or ".join([said[0], *(one.removeprefix("Input should be ") for one in said[1:])])
    code = "invalid_encoding" if first["type"] == "invalid_encoding" else None
    return BadRequest(f"{path}: {message}" if path else message, param=path, code=code)


def _words(error: ErrorDetails) -> str:
    if error["type"] == "union_tag_invalid":  # pydantic's own message quotes the tag
        return f"there is no such type; there is {error['ctx']['expected_tags']}"
    return error["msg"].removeprefix("Value error, ")


def _alternatives(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """The first error; of a field that may be one thing or another, what is said of the alternative that fits furthest,
    or, where none begins to fit, of each.
    """
    first = errors[0]
    fields = first["loc"][:-1] if first["type"] == _UNKNOWN else first["loc"]  # an unknown name may be anything
    fork = next((index for index, part in enumerate(fields) if _is_branch(part)), None)
    if fork is None:
        return [first]
    of_field = [one for one in errors if one["loc"][:fork] == first["loc"][:fork] and len(one["loc"]) > fork]
    deepest = max(len(one["loc"]) for one in of_field)
    if deepest > fork + 1:
        return [next(one for one in of_field if len(one["loc"]) == deepest)]
    return [one for one in of_field if not _OTHER_TYPE.fullmatch(one["type"])][:1] or of_field


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and _BRANCH.fullmatch(part) is not None


def _path(location: Iterable[int | str]) -> str:
    """Where in the body, as `messages.0.content`; what the sender named by words of their own stays out."""
    parts: list[str] = []
    for part in location:
        is_tag = bool(parts) and part == parts[-1]  # of a tagged union: the type, and below it the field of its name
        if _is_branch(part) or is_tag:
            continue
        parts.append(str(part))
        if part in OWN_WORDS:
            break
    return ".".join(parts)


def _meant(model: type[BaseModel], location: Sequence[int | str]) -> str | None:
    """The field whose name is nearly the unknown one."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        below = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if below is None:
            return None
        model = below
    return next(iter(get_close_matches(str(location[-1]), model.model_fields, n=1, cutoff=0.75)), None)
