"""One exception tree; only the API layer turns it into HTTP.

    PlumblineError            status, type, code, param, retryable
    ├── BadRequest            400: the request is wrong; `param` names the field
    ├── Unauthorized          401: no key, or none that is known
    ├── Forbidden             403: the key's role does not allow it
    ├── NotFound              404: unknown, or another tenant's
    ├── Gone                  410: expired or erased
    ├── StaleGeneration       412: routing moved since the caller looked
    ├── RequestTimeout        408: the request did not arrive in time
    ├── TooLarge              413: a body over its limit
    ├── UnsupportedMedia      415: a body of another type, or encoded
    ├── IdempotencyMismatch   422: the key was used with another body
    ├── HeadersTooLarge       431: too many or too long headers
    ├── Busy                  429: the queue is full; Retry-After
    ├── RateLimited           429: too much in too short a time; Retry-After
    ├── ClientGone            499: nobody is there to read the reply; for logs and metrics
    ├── EngineUnavailable     503: no engine answers; Retry-After
    ├── SafetyUnavailable     503: nothing can tell whether the request is safe; Retry-After
    ├── AnswerPending         503: the answer that is meant is still being made; Retry-After
    └── StorageUnavailable    503: the store cannot keep anything; Retry-After

Messages go to clients: they say what was wrong and how to mend it, and never quote exceptions, paths or texts.
"""

from __future__ import annotations

from collections.abc import Mapping


class PlumblineError(Exception):
    """The root. `public` goes to the client; `str(error)` is for the log."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retry_after_s: int | None = None
    headers: Mapping[str, str] = {}
    """Further headers of the reply."""

    def __init__(self, public: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(public)
        self.public = public
        self.param = param
        if code is not None:
            self.code = code


class BadRequest(PlumblineError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthorized(PlumblineError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(PlumblineError):
    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class NotFound(PlumblineError):
    status = 404
    type = "not_found_error"
    code = "not_found"


class Gone(PlumblineError):
    status = 410
    type = "not_found_error"
    code = "response_expired"


class StaleGeneration(PlumblineError):
    status = 412
    type = "invalid_request_error"
    code = "stale_generation"


class RequestTimeout(PlumblineError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class HeadersTooLarge(PlumblineError):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class TooLarge(PlumblineError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMedia(PlumblineError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class IdempotencyMismatch(PlumblineError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_mismatch"


class Busy(PlumblineError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_after_s = 1


class RateLimited(PlumblineError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limited"

    def __init__(
        self, public: str, *, retry_after_s: int, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(public, code=code)
        self.retry_after_s = retry_after_s
        self.headers = headers or {}


class ClientGone(PlumblineError):
    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"


class EngineUnavailable(PlumblineError):
    status = 503
    type = "server_error"
    code = "engine_unavailable"
    retry_after_s = 2


class SafetyUnavailable(PlumblineError):
    status = 503
    type = "server_error"
    code = "safety_unavailable"
    retry_after_s = 2


class AnswerPending(PlumblineError):
    status = 503
    type = "server_error"
    code = "response_pending"
    retry_after_s = 2


class StorageUnavailable(PlumblineError):
    """The constructor's text is for the log; clients get a fixed one."""

    status = 503
    type = "server_error"
    code = "storage_unavailable"
    retry_after_s = 5

    def __init__(self, cause: str) -> None:
        super().__init__(
            "The store cannot confirm this now. Try again later, with the Idempotency-Key that you sent, if any."
        )
        self.cause = cause
