"""Suites: JSONL files that operators own, one item a line.

    {"id": "q1", "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}],
     "images": ["q1.png"],
     "checks": {"must_mention": ["red"], "must_not_mention": ["dog"], "exact": "...", "regex": "..."}}

An image is a data: URL or a path relative to the suite's file; `{"type": "image"}` parts take them in order. Words
are matched whole and without regard to case. `regex` is in RE2 syntax, so that no pattern takes longer than a time
linear in the answer's length, and searched; `exact` compares the answers without outer white space. An item may have
several checks: its score is their mean, from 0 to 1.

Everything is read and checked at the start of the server, images and patterns too: a gate never meets a bad line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import re2
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward.types import Image, Message, Prompt
from server.config import SuiteConfig

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024

_MIMES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class SuiteError(Exception):
    """A suite cannot be used; the text names the file, the line and the reason."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Part(_Strict):
    type: Literal["text", "image"]
    text: str = ""


class _Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]


class Checks(_Strict):
    """What an answer is held to."""

    must_mention: tuple[str, ...] = ()
    must_not_mention: tuple[str, ...] = ()
    exact: str | None = None
    regex: str | None = None

    def score(self, answer: str) -> float:
        """The mean of the checks that there are, from 0 to 1."""
        scores: list[float] = []
        if self.must_mention:
            scores.append(sum(mentions(answer, one) for one in self.must_mention) / len(self.must_mention))
        if self.must_not_mention:
            scores.append(float(not any(mentions(answer, one) for one in self.must_not_mention)))
        if self.exact is not None:
            scores.append(float(answer.strip() == self.exact.strip()))
        if self.regex is not None:
            scores.append(float(re2.search(self.regex, answer) is not None))
        return sum(scores) / len(scores)


class _Line(_Strict):
    id: str = Field(min_length=1, max_length=256)
    messages: list[_Message] = Field(min_length=1)
    images: list[str] = []
    checks: Checks


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    prompt: Prompt
    checks: Checks


@dataclass(frozen=True, slots=True)
class Suite:
    """One loaded suite. `digest` covers what is used of the file, images included."""

    config: SuiteConfig
    items: tuple[Item, ...]
    digest: str

    @property
    def name(self) -> str:
        return self.config.name


def mentions(text: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words, without regard to case and to how white space is written."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def load_suite(config: SuiteConfig) -> Suite:
    """Read a suite, blocking; raises `SuiteError`."""
    digest = hashlib.sha256()
    items: list[Item] = []
    lines: dict[str, int] = {}
    try:
        if config.path.stat().st_size > MAX_FILE_BYTES:
            raise SuiteError(f"{config.path}: larger than {MAX_FILE_BYTES} bytes")
        with config.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if len(items) >= config.max_items:
                    break
                if line.strip():
                    item = _item(line, config.path, number)
                    if lines.setdefault(item.id, number) != number:
                        raise SuiteError(f"{config.path}:{number}: id: line {lines[item.id]} has the same")
                    items.append(item)
    except OSError as error:
        raise SuiteError(f"{config.path}: {error.strerror}") from None
    if not items:
        raise SuiteError(f"{config.path}: holds no items")
    for item in items:
        digest.update(repr((item.id, item.prompt, item.checks)).encode())
    return Suite(config, tuple(items), digest.hexdigest())


def _item(line: bytes, path: Path, number: int) -> Item:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("the line is too long")
        parsed = _Line.model_validate_json(line)
        if not (parsed.checks.must_mention or parsed.checks.must_not_mention) and (
            parsed.checks.exact is None and parsed.checks.regex is None
        ):
            raise ValueError("checks: give at least one")
        if any(not phrase.split() for phrase in (*parsed.checks.must_mention, *parsed.checks.must_not_mention)):
            raise ValueError("checks: an empty phrase")
        if parsed.checks.regex is not None:
            _require_pattern(parsed.checks.regex)
        images = [_image(source, path.parent) for source in parsed.images]
        return Item(parsed.id, _prompt(parsed.messages, images), parsed.checks)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in [".".join(str(part) for part in first["loc"])] if part)
        raise SuiteError(f"{path}:{number}: {where}{first['msg']}") from None
    except ValueError as error:
        raise SuiteError(f"{path}:{number}: {error}") from None


def _require_pattern(pattern: str) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise ValueError(f"checks.regex: RE2 refuses it: {reason}") from None


def _prompt(messages: list[_Message], images: list[Image]) -> Prompt:
    left = iter(images)
    built = []
    for message in messages:
        if isinstance(message.content, str):
            built.append(Message(message.role, (message.content,)))
            continue
        parts: list[Any] = [part.text if part.type == "text" else next(left, None) for part in message.content]
        if None in parts:
            raise ValueError("there are more image parts than images")
        built.append(Message(message.role, tuple(parts)))
    if next(left, None) is not None:
        raise ValueError("there are more images than image parts")
    return Prompt(tuple(built))


def _image(source: str, directory: Path) -> Image:
    """The image, decoded once: one that is broken would look like a refusal of the engine in the middle of a gate."""
    if source.startswith("data:"):
        name = "data: URL"
        head, _, body = source.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("images: a data: URL must be base64")
        try:
            data = base64.b64decode(body, validate=True)
        except binascii.Error:
            raise ValueError("images: a data: URL is not valid base64") from None
    else:
        name = source
        try:
            data = (directory / source).read_bytes()
        except OSError as error:
            raise ValueError(f"images: {name}: {error.strerror}") from None
    try:
        with Pillow.open(io.BytesIO(data), formats=list(_MIMES)) as image:
            image.load()
            return Image(hashlib.sha256(data).hexdigest(), _MIMES[str(image.format)], data)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError):
        raise ValueError(f"images: {name}: not a PNG, JPEG or WebP image that can be read") from None
