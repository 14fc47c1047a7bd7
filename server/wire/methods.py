"""What a method of alignment is, as the code itself says: read from docstrings, shown by `plumbline methods`.

A docstring begins with what the method is, and names its source in a sentence of its own, as in
`IPO. Azar et al. 2023, https://arxiv.org/abs/2310.12036, eq. 17.`
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined, to_jsonable_python

from server.wire.base import Reply

_URL: Final = re.compile(r"https?://[^\s)<>\"]*[^\s)<>\".,;:]")
_BEHIND: Final = re.compile(r",? *\(?(?:eq|sec|app|table|alg)s?\. [\w.()–-]*\w\)?")
"""Where in the source, as it stands behind the address."""
_SENTENCE: Final = re.compile(r"(?<!\bal)(?<!\bDr)(?<!\beq)(?<!\bvs)[.;:] |\n\n| \((?![^)]*\))")


class MethodOption(Reply):
    """One thing about a method that can be set."""

    name: str
    default: Any = None
    """Null: follows from something else, as its meaning says."""
    meaning: str = ""


class Method(Reply):
    """One method, under the name that the configuration knows it by."""

    name: str
    kind: str
    what: str
    source: str = ""
    """Authors and year, and where in the paper."""
    url: str = ""
    formula: str
    options: list[MethodOption] = []
    needs: list[str]
    """What there must be for it to do anything: `pairs`, `thumbs`, `ranks`, `rewards`, `images`, `scorers`, ..."""
    reads: list[str] = []
    """What else is computed for it: references, changed images, statistics of the policy."""


METHODS: Final = TypeAdapter(list[Method])


def source_of(docstring: str) -> tuple[str, str, str]:
    """(what it is, its source in words, its address); the last two are empty where no address is named."""
    text = "\n\n".join(" ".join(part.split()) for part in docstring.strip().split("\n\n"))
    found = _URL.search(text)
    if found is None:
        return first_paragraph(text), "", ""
    begin = max((end.end() for end in _SENTENCE.finditer(text, 0, found.start())), default=0)
    behind = _BEHIND.match(text, found.end())
    place = behind[0].lstrip(", ") if behind else ""
    place = place[1:-1] if place.startswith("(") else place
    source = ", ".join(one for one in (text[begin : found.start()].strip(" ,("), place) if one)
    what = text[:begin] if "\n\n" not in text[:begin] else first_paragraph(text)
    return what.strip().rstrip(".:;").removesuffix(". Pure"), source, found[0]


def first_paragraph(docstring: str | None) -> str:
    """In one line."""
    return " ".join((docstring or "").strip().split("\n\n")[0].split()).removesuffix(".")


def options_of(model: type[BaseModel]) -> list[MethodOption]:
    """The fields, with their defaults and what is said of them."""
    return [
        MethodOption(name=name, default=_plain(field.get_default()), meaning=first_paragraph(field.description))
        for name, field in model.model_fields.items()
    ]


def _plain(value: object) -> Any:
    return None if value is PydanticUndefined else to_jsonable_python(value)
