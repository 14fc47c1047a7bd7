"""What every model of the API is made of: strict requests, lenient replies, and the bounded texts in them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("invalid_encoding", "text cannot hold the character NUL")
    return text


NoNul = AfterValidator(_without_nul)
"""For texts that people write: PostgreSQL keeps no NUL, and nothing good comes of one."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=128), NoNul]
Text = Annotated[str, StringConstraints(max_length=200_000), NoNul]
Comment = Annotated[str, StringConstraints(max_length=4_000), NoNul]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul]
Annotator = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_without_nul)]
"""Whose opinion: the hash of a user, or a name that the server made."""

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A token or generation: what the databases keep in four bytes."""
Position = Annotated[int, Field(ge=0, le=2**53)]
"""Where in the feed: no larger than every JSON parser reads exactly."""


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("holds a number that is not finite, or is nested too deeply") from None
    if "\\u0000" in text:
        raise PydanticCustomError("invalid_encoding", "text cannot hold the character NUL")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_plain)]
"""What its sender alone understands, and every database can keep."""

BASE = "base"
"""The name under which the base model stands wherever an adapter id could stand."""


class Wire(BaseModel):
    """A request: strict about types (no number as text, no `true` for 1), ranges and unknown fields; NaN is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True, use_attribute_docstrings=True)


class Reply(BaseModel):
    """A reply: a client of an older version ignores fields it does not know."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)
