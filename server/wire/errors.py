"""The one shape of an error, which is OpenAI's."""

from __future__ import annotations

from server.wire.base import Reply


class ErrorBody(Reply):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Reply):
    error: ErrorBody
