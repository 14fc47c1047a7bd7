"""Feedback tokens, user hashes, ids of completions and contents: a key for each from one secret, so none can stand in
for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path

from server.errors import Unauthorized
from server.ids import issued_at, new_id
from server.store.blobs import write_durably

MAX_TOKEN_CHARS = 2048
MARK_DIGITS = 6
"""Of a completion's id, at its end. They are worth 24 bits: who guesses them gains a 503 in place of a 404."""


@dataclass(frozen=True, slots=True)
class FeedbackGrant:
    """What a feedback token allows: opinions on the shown candidates of one completion, in one user's name."""

    completion_id: str
    tenant: str
    user_hash: str | None


class Signer:
    """HMAC-SHA256 under keys derived from the installation's secret."""

    def __init__(self, secret: bytes) -> None:
        self._token_key = hmac.digest(secret, b"feedback-token", "sha256")
        self._user_key = hmac.digest(secret, b"user-hash", "sha256")
        self._content_key = hmac.digest(secret, b"content-id", "sha256")
        self._completion_key = hmac.digest(secret, b"completion-id", "sha256")

    def user_hash(self, tenant: str, user: str) -> str:
        """The name under which a tenant's user is kept: the same user of another tenant gets another one."""
        return hmac.new(self._user_key, f"{tenant}\0{user}".encode(), hashlib.sha256).hexdigest()[:32]

    def content_id(self, *parts: str) -> str:
        """32 hexadecimal digits that equal parts alone have in common, and from which no part can be guessed."""
        canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        return hmac.new(self._content_key, canonical.encode(), hashlib.sha256).hexdigest()[:32]

    def completion_id(self, tenant: str) -> str:
        """A new id for an answer that will be kept. Its last digits tell every server of the installation so."""
        unmarked = new_id("cmpl")[:-MARK_DIGITS]
        return unmarked + self._mark(tenant, unmarked)

    def promised_at(self, tenant: str, completion_id: str) -> float | None:
        """When the tenant got this id from `completion_id`, UTC seconds since the epoch; None: never."""
        unmarked, mark = completion_id[:-MARK_DIGITS], completion_id[-MARK_DIGITS:]
        if not hmac.compare_digest(self._mark(tenant, unmarked).encode(), mark.encode()):
            return None
        return issued_at(completion_id)

    def _mark(self, tenant: str, unmarked: str) -> str:
        return hmac.new(self._completion_key, f"{tenant}\0{unmarked}".encode(), hashlib.sha256).hexdigest()[
            :MARK_DIGITS
        ]

    def sign(self, grant: FeedbackGrant, expires_at: float) -> str:
        payload = json.dumps([grant.completion_id, grant.tenant, grant.user_hash, int(expires_at)]).encode()
        return f"{_encode(payload)}.{_encode(self._mac(payload))}"

    def read(self, token: str, now: float) -> FeedbackGrant:
        """The grant of a genuine, unexpired token; raises `Unauthorized`."""
        refused = Unauthorized("This feedback token is not valid any more.", code="invalid_feedback_token")
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise refused
        body, _, mac = token.partition(".")
        try:
            payload = _decode(body)
            if not hmac.compare_digest(self._mac(payload), _decode(mac)):
                raise refused
            completion_id, tenant, user_hash, expires_at = json.loads(payload)
        except ValueError:
            raise refused from None
        if now > expires_at:
            raise refused
        return FeedbackGrant(completion_id, tenant, user_hash)

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._token_key, payload, "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def load_secret(directory: Path) -> bytes:
    """The installation's own secret, made at the first start and readable by its owner alone."""
    path = directory / "secret"
    if not path.exists():
        write_durably(path, os.urandom(32))
        path.chmod(0o600)
    return path.read_bytes()
