"""The one error shape: `{"error": {"message", "type", "param", "code"}}`, on every path."""

from __future__ import annotations

from fastapi.responses import Response

from server.errors import PlumblineError
from server.wire.errors import ErrorBody, ErrorReply


def error_body(error: PlumblineError) -> str:
    body = ErrorBody(message=error.public, type=error.type, param=error.param, code=error.code)
    return ErrorReply(error=body).model_dump_json()


def error_response(error: PlumblineError) -> Response:
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    elif error.status >= 500 or error.status in {408, 409}:
        headers["x-should-retry"] = "false"  # OpenAI's client would retry these by itself
    if error.status == 410:
        headers["x-should-retry"] = "false"
    return Response(error_body(error), status_code=error.status, media_type="application/json", headers=headers)
