"""The client of operators and learners: one typed method for each route of the HTTP API, over httpx, synchronous.

It promises that every failure is a `PlumblineError`, and that a call is repeated (transport error, 429, 503;
with back-off) only where repeating cannot do a thing twice: reads, uploads by content, the lease, and
feedback under an idempotency key. It leaves out chat (`clients.Plumbline`) and any waiting for a
state: callers poll. One client may be shared by threads.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from server.wire.activity import ActivityReply
from server.wire.adapters import (
    AdapterList,
    AdapterManifest,
    AdapterReply,
    AdapterReportReply,
    LineageReply,
    MoveReply,
    MoveRequest,
    RollbackRequest,
    RoutingList,
    RoutingReply,
    UploadReply,
)
from server.wire.chat import ModelCard, ModelList
from server.wire.errors import ErrorReply
from server.wire.exchange import ImportReply, ImportRequest
from server.wire.keys import KeyList, KeyReply, KeyRequest, NewKeyReply
from server.wire.operate import AuditList, ErasureReply, Health, QuarantineReply, QuarantineRequest, StateReply
from server.wire.signals import FeedbackRequest, PreferenceRequest, SignalReply
from server.wire.training import (
    FeedEntry,
    FeedPage,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    RolloutReply,
    RolloutRequest,
    RoundList,
    RoundReply,
    RoundReport,
    TrainingConfig,
)

RETRY_STATUSES: Final = frozenset({429, 503})
MAX_ATTEMPTS: Final = 4
FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 8.0
UPLOAD_PIECE_BYTES: Final = 8 * 1024 * 1024

AdapterAction = Literal["canary", "shadow", "promote", "reject", "quarantine"]
Model = TypeVar("Model", bound=BaseModel)


class PlumblineError(Exception):
    """A call failed. `status` is 0 when no reply came (`type` is then "connection_error")."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "api_error",
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.request_id = request_id

    def __str__(self) -> str:
        parts = [str(self.status) if self.status else "no reply", self.message]
        if self.code:
            parts.append(f"code {self.code}")
        if self.request_id:
            parts.append(f"request {self.request_id}")
        return " · ".join(parts)

    @property
    def is_transient(self) -> bool:
        """The same call may succeed later: the server is away, restarting or busy."""
        return self.status in {0, 429} or self.status >= 500


class UnreadableEntry(FeedEntry):
    """A feed entry whose group does not fit the wire model: `group` is None, `problem` says what is wrong."""

    problem: str


class PlumblineClient:
    """Connection to one server. `transport` replaces the network (tests: `httpx.MockTransport`)."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        max_attempts: int = MAX_ATTEMPTS,
        first_delay_s: float = FIRST_DELAY_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            transport=transport,
        )
        self._max_attempts = max_attempts
        self._first_delay_s = first_delay_s

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- training -----------------------------------------------------------------------------------------

    def training_config(self, alias: str) -> TrainingConfig:
        return self._get("/v1/training/config", TrainingConfig, alias=alias)

    def training_feed(self, alias: str, after: int, limit: int | None = None) -> FeedPage:
        """The changes behind `after`, in seq order. A malformed group does not spoil its page (`UnreadableEntry`)."""
        reply = self._call("GET", "/v1/training/feed", params={"alias": alias, "after": after, "limit": limit})
        try:
            return FeedPage.model_validate_json(reply.content)
        except ValidationError:
            return _page_with_unreadable_entries(_json(reply))

    def lease(self, request: LeaseRequest) -> LeaseReply:
        """Take or, as the same owner, renew the right to train an alias."""
        return self._post("/v1/training/lease", request, LeaseReply, idempotent=True)

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatReply:
        return self._post("/v1/training/heartbeat", request, HeartbeatReply, idempotent=True)

    def report_round(self, report: RoundReport) -> None:
        self._call("POST", "/v1/training/report", body=report)

    def rollouts(self, request: RolloutRequest, *, timeout_s: float | None = None) -> RolloutReply:
        """New answers to stored prompts. Not repeated where the server is busy: it says so to be left alone."""
        path = "/v1/training/rollouts"
        return _parsed(self._call("POST", path, body=request, timeout_s=timeout_s), RolloutReply)

    def media(self, sha256: str) -> bytes:
        """The bytes of an image; PlumblineError 502 when they are not those of `sha256`."""
        content = self._call("GET", f"/v1/media/{sha256}").content
        if hashlib.sha256(content).hexdigest() != sha256:
            raise PlumblineError(502, f"media {sha256} came with other bytes", type="integrity_error")
        return content

    # --- adapters -----------------------------------------------------------------------------------------

    def begin_upload(self, manifest: AdapterManifest) -> UploadReply:
        return self._post("/v1/adapters", manifest, UploadReply)

    def put_adapter_file(self, upload: str, name: str, content: bytes) -> None:
        """Send one file, in pieces: where a connection breaks, only a piece is sent again."""
        for offset in range(0, len(content), UPLOAD_PIECE_BYTES):
            piece = content[offset : offset + UPLOAD_PIECE_BYTES]
            headers = {
                "content-type": "application/octet-stream",
                "x-content-sha256": hashlib.sha256(piece).hexdigest(),
            }
            path = f"/v1/adapters/{upload}/files/{name}"
            self._call("PUT", path, params={"offset": offset}, content=piece, headers=headers, idempotent=True)

    def commit_upload(self, upload: str) -> AdapterReply:
        return self._post(f"/v1/adapters/{upload}/commit", None, AdapterReply)

    def upload_adapter(self, manifest: AdapterManifest, files: Mapping[str, bytes]) -> AdapterReply:
        """The three steps in one: manifest, the files that the server misses, commit."""
        begun = self.begin_upload(manifest)
        for name in begun.missing:
            self.put_adapter_file(begun.upload, name, files[name])
        return self.commit_upload(begun.upload)

    def adapters(self, alias: str | None = None) -> AdapterList:
        return self._get("/v1/adapters", AdapterList, alias=alias)

    def adapter(self, adapter: str) -> AdapterReply:
        return self._get(f"/v1/adapters/{adapter}", AdapterReply)

    def adapter_file(self, adapter: str, name: str) -> bytes:
        return self._call("GET", f"/v1/adapters/{adapter}/files/{name}").content

    def delete_adapter(self, adapter: str) -> None:
        """Forget an ephemeral adapter; raises 404 where there is none of this id."""
        self._call("DELETE", f"/v1/adapters/{adapter}")

    def adapter_report(self, adapter: str) -> AdapterReportReply:
        return self._get(f"/v1/adapters/{adapter}/report", AdapterReportReply)

    def adapter_page(self, adapter: str, format: Literal["markdown", "html"]) -> str:
        """The report as a page for people."""
        return self._call("GET", f"/v1/adapters/{adapter}/report", params={"format": format}).text

    def adapter_lineage(self, adapter: str) -> LineageReply:
        return self._get(f"/v1/adapters/{adapter}/lineage", LineageReply)

    def rounds(self, alias: str, limit: int | None = None, before: int | None = None) -> RoundList:
        """An alias's training rounds, newest first; `before` an id: those in front of it."""
        return self._get("/v1/rounds", RoundList, alias=alias, limit=limit, before=before)

    def round(self, number: int) -> RoundReply:
        return self._get(f"/v1/rounds/{number}", RoundReply)

    def round_page(self, number: int, format: Literal["markdown", "html"]) -> str:
        """The round as a page for people."""
        return self._call("GET", f"/v1/rounds/{number}", params={"format": format}).text

    def move_adapter(self, adapter: str, action: AdapterAction, request: MoveRequest | None = None) -> MoveReply:
        """An operator's move; the reply is the alias's routing after it."""
        return self._post(f"/v1/adapters/{adapter}/{action}", request or MoveRequest(), MoveReply)

    # --- operation ----------------------------------------------------------------------------------------

    def routing(self) -> RoutingList:
        return self._get("/v1/routing", RoutingList)

    def rollback(self, request: RollbackRequest | None = None) -> RoutingReply:
        return self._post("/v1/rollback", request or RollbackRequest(), RoutingReply)

    def undo_rollback(self, request: RollbackRequest | None = None) -> RoutingReply:
        return self._post("/v1/rollback/undo", request or RollbackRequest(), RoutingReply)

    def audit(self, limit: int | None = None) -> AuditList:
        return self._get("/v1/audit", AuditList, limit=limit)

    def create_key(self, request: KeyRequest) -> NewKeyReply:
        """A new API key; its secret is in this reply and nowhere else."""
        return self._post("/v1/keys", request, NewKeyReply)

    def keys(self, limit: int | None = None, after: str | None = None) -> KeyList:
        """Every API key, revoked ones too, oldest first."""
        return self._get("/v1/keys", KeyList, limit=limit, after=after)

    def revoke_key(self, key: str, *, force: bool = False) -> KeyReply:
        """The key with this id stops working. `force`: even if no operator's key is left."""
        params = {"force": "true"} if force else None
        return _parsed(self._call("DELETE", f"/v1/keys/{quote(key, safe='')}", params=params), KeyReply)

    def erase_user(
        self, user: str, tenant: str | None = None, adapters: Literal["roll_back", "retrain"] | None = None
    ) -> ErasureReply:
        """Erase all that is kept of a user, as the app names them. For ever.

        `adapters`: what to do about adapters that learned from it; the reply says what each remedy does.
        """
        path = f"/v1/users/{quote(user, safe='')}/data"
        return _parsed(self._call("DELETE", path, params={"tenant": tenant, "adapters": adapters}), ErasureReply)

    def quarantine_signals(self, request: QuarantineRequest) -> QuarantineReply:
        """Set signals aside, or take them back in."""
        return self._post("/v1/signals/quarantine", request, QuarantineReply, idempotent=True)

    def activity(self, alias: str, *, hours: float | None = None, buckets: int | None = None) -> ActivityReply:
        """Answers, opinions and rewards of the last `hours` (24), in `buckets` (48) of time; who agrees with whom."""
        return self._get("/v1/activity", ActivityReply, alias=alias, hours=hours, buckets=buckets)

    def check(self) -> StateReply:
        """What is wrong with the server's whole state. Takes as long as reading it takes: set `timeout_s`."""
        return self._get("/v1/check", StateReply)

    def models(self) -> ModelList:
        return self._get("/v1/models", ModelList)

    def model(self, model: str) -> ModelCard:
        """One of the list; raises 404 where nothing of this name may be asked for."""
        return self._get(f"/v1/models/{quote(model, safe='')}", ModelCard)

    def health(self) -> Health:
        """Whether the server process answers."""
        return self._get("/healthz", Health)

    def ready(self) -> Health:
        """Whether answers can be generated. A server that is not ready gives a status too, not an error."""
        try:
            reply = self._http.get("/readyz")
        except httpx.TransportError as error:
            raise _no_reply(error) from error
        if reply.status_code not in {200, 503}:
            raise _error_of(reply)
        return _parsed(reply, Health)

    # --- signals ------------------------------------------------------------------------------------------

    def feedback(self, request: FeedbackRequest, *, token: str | None = None, key: str | None = None) -> SignalReply:
        """One person's opinion. `token`: the answer's feedback token instead of the API key; `key`: idempotency."""
        return self._signal("/v1/feedback", request, token, key)

    def preference(
        self, request: PreferenceRequest, *, token: str | None = None, key: str | None = None
    ) -> SignalReply:
        return self._signal("/v1/preferences", request, token, key)

    def _signal(self, path: str, request: BaseModel, token: str | None, key: str | None) -> SignalReply:
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        if token is not None:
            headers["authorization"] = f"Plumbline-Feedback {token}"
        return _parsed(self._call("POST", path, body=request, headers=headers, idempotent=True), SignalReply)

    # --- exchange -----------------------------------------------------------------------------------------

    def export_preferences(
        self,
        alias: str,
        *,
        kind: Literal["pairs", "unpaired"] = "pairs",
        images: Literal["embed", "reference"] = "embed",
        split: Literal["train", "holdout", "all"] = "train",
        after: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """What the alias's groups teach, as rows of TRL's format, oldest group first, while they arrive.

        A stream that breaks off raises; go on with `after`, the last group of which all rows have come.
        """
        wanted = {"alias": alias, "kind": kind, "images": images, "split": split, "after": after}
        params = {name: value for name, value in wanted.items() if value is not None}
        try:
            with self._http.stream("GET", "/v1/preferences", params=params) as reply:
                if not reply.is_success:
                    reply.read()
                    raise _error_of(reply)
                for line in reply.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise _no_reply(error) from error

    def import_groups(self, request: ImportRequest) -> ImportReply:
        """Keep groups from elsewhere; sending them again changes nothing."""
        return self._post("/v1/import", request, ImportReply, idempotent=True)

    # --- plumbing -----------------------------------------------------------------------------------------

    def _get(self, path: str, model: type[Model], **params: str | float | None) -> Model:
        return _parsed(self._call("GET", path, params=params), model)

    def _post(self, path: str, body: BaseModel | None, model: type[Model], *, idempotent: bool = False) -> Model:
        return _parsed(self._call("POST", path, body=body, idempotent=idempotent), model)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | float | None] | None = None,
        body: BaseModel | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if body is not None:
            content = body.model_dump_json(exclude_unset=True).encode()
            sent["content-type"] = "application/json"
        kept = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=10.0)
        request = self._http.build_request(method, path, params=kept, content=content, headers=sent, timeout=timeout)
        attempts = self._max_attempts if idempotent or method == "GET" else 1
        return self._send(request, attempts)

    def _send(self, request: httpx.Request, attempts: int) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            wait_s = 0.0
            try:
                reply = self._http.send(request)
            except httpx.TransportError as error:
                if attempt == attempts:
                    raise _no_reply(error) from error
            else:
                if reply.is_success:
                    return reply
                if attempt == attempts or reply.status_code not in RETRY_STATUSES:
                    raise _error_of(reply)
                wait_s = _retry_after(reply)
            time.sleep(max(wait_s, self._delay(attempt)))
        raise AssertionError("at least one attempt is made")

    def _delay(self, attempt: int) -> float:
        """Doubling, with jitter, so that many clients do not come back at once."""
        full = min(MAX_DELAY_S, self._first_delay_s * 2.0 ** (attempt - 1))
        return full * (0.5 + random.random() / 2)


def _json(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError as error:
        raise _not_understood(reply, str(error)) from error


def _parsed(reply: httpx.Response, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        raise _not_understood(reply, f"{error.error_count()} fields do not fit {model.__name__}") from error


def _not_understood(reply: httpx.Response, why: str) -> PlumblineError:
    message = f"the reply of {reply.request.url.path} is not what this client knows: {why}"
    return PlumblineError(
        reply.status_code, message, type="invalid_reply", request_id=reply.headers.get("x-request-id")
    )


def _no_reply(error: httpx.TransportError) -> PlumblineError:
    return PlumblineError(0, f"{type(error).__name__}: {error}", type="connection_error")


def _error_of(reply: httpx.Response) -> PlumblineError:
    """The server's error object; a proxy's page in its place becomes an error all the same."""
    request_id = reply.headers.get("x-request-id")
    try:
        body = ErrorReply.model_validate_json(reply.content).error
    except ValidationError:
        return PlumblineError(reply.status_code, f"HTTP {reply.status_code}", request_id=request_id)
    return PlumblineError(
        reply.status_code, body.message, type=body.type, code=body.code, param=body.param, request_id=request_id
    )


def _retry_after(reply: httpx.Response) -> float:
    try:
        return min(MAX_DELAY_S, max(0.0, float(reply.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


def _page_with_unreadable_entries(raw: Any) -> FeedPage:
    """Read a page entry by entry; one that does not fit keeps its place with `group` None."""
    entries: list[FeedEntry] = []
    try:
        for item in raw["entries"]:
            try:
                entries.append(FeedEntry.model_validate(item))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                bare = {**item, "group": None, "problem": f"{where}: {first['msg']}"}
                entries.append(UnreadableEntry.model_validate(bare))
        bounds = TypeAdapter(dict[str, int]).validate_python({"next": raw["next"], "head": raw["head"]})
    except (ValidationError, KeyError, TypeError) as error:
        raise PlumblineError(200, "the feed's reply cannot be read", type="invalid_reply") from error
    return FeedPage.model_construct(entries=entries, next=bounds["next"], head=bounds["head"])
