"""The server's side of training in memory: feed, media, lease, adapters. An adapter of httpx's transport port."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx

from clients.client import PlumblineClient
from server.wire.adapters import AdapterManifest
from server.wire.training import (
    FeedEntry,
    HeartbeatRequest,
    LeaseRequest,
    Pair,
    Rollout,
    RolloutRequest,
    RoundReport,
    TrainingCandidate,
    TrainingGroup,
    Unpaired,
)
from tests.learner.tiny import EOS, image_prompt, png

ALIAS = "default"


def candidate(name: str, token_ids: list[int], **changes: Any) -> TrainingCandidate:
    values: dict[str, Any] = {
        "id": name,
        "adapter": "base",
        "variant": "",
        "token_ids": token_ids,
        "logprobs": [-1.0] * len(token_ids),
        "finish_reason": "stop" if token_ids and token_ids[-1] == EOS else "length",
        "blocked": False,
        "may_be_positive": True,
        "total": None,
    }
    return TrainingCandidate(**{**values, **changes})


def pair(chosen: str, rejected: str, **changes: Any) -> Pair:
    values: dict[str, Any] = {"source": "choice", "weight": 1.0, "annotator": "ann"}
    return Pair(chosen=chosen, rejected=rejected, **{**values, **changes})


def thumb(name: str, desirable: bool, **changes: Any) -> Unpaired:
    return Unpaired(candidate=name, desirable=desirable, **{"weight": 1.0, "annotator": "ann", **changes})


def make_group(number: int, digest: str, server: FakeServer, **changes: Any) -> TrainingGroup:
    """People like answers that hold token 10 and dislike those that hold token 20; every third gives thumbs only."""
    name = f"g{number:03d}"
    word = 30 + number % 20
    good = candidate(f"{name}-a", [10, word, 10 + number % 4, EOS])
    bad = candidate(f"{name}-b", [20, word, 21] + [22] * (number % 3))
    only_thumbs = number % 3 == 2
    values: dict[str, Any] = {
        "id": name,
        "alias": ALIAS,
        "generation": 1,
        "prompt_token_ids": list(image_prompt(4, words=(5, 6, word))),
        "images": [server.add_image(png(number % 5))],
        "base_digest": digest,
        "on_policy_sampling": True,
        "candidates": [good, bad],
        "pairs": [] if only_thumbs else [pair(good.id, bad.id)],
        "unpaired": [thumb(good.id, True), thumb(bad.id, False)] if only_thumbs else [],
    }
    return TrainingGroup(**{**values, **changes})


class FakeServer:
    """`fault(method, path)` may raise an httpx error or return a response in place of the real one; `before` may hold
    a request back while others go on.
    """

    def __init__(self, base_model: str, base_digest: str, **learner: Any) -> None:
        self.base_digest = base_digest
        self.config: dict[str, Any] = {
            "alias": ALIAS,
            "base_model": base_model,
            "base_digest": base_digest,
            "max_lora_rank": 32,
            "lora_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "learner": learner,
        }
        self.entries: list[FeedEntry] = []
        self.groups: dict[str, TrainingGroup | None] = {}
        self.images: dict[str, bytes] = {}
        self.active = "base"
        self.token, self.owner = 0, ""
        self.adapters: dict[str, tuple[AdapterManifest, dict[str, bytes]]] = {}
        self.states: dict[str, str] = {}
        self.reports: list[RoundReport] = []
        self.heartbeats: list[HeartbeatRequest] = []
        self.page_size = 7
        self.rollouts: list[RolloutRequest] = []
        self.deleted: list[str] = []
        self.roll_out: Callable[[RolloutRequest, str], Rollout] = self.answered
        self._numbers = itertools.count(1)
        self.fault: Callable[[str, str], httpx.Response | None] = lambda method, path: None
        self.before: Callable[[str, str], None] = lambda method, path: None
        self._uploads: dict[str, tuple[AdapterManifest, dict[str, bytes]]] = {}
        self._lock = threading.RLock()

    def client(self) -> PlumblineClient:
        return PlumblineClient("http://plumbline", transport=httpx.MockTransport(self.handle), first_delay_s=0.001)

    def add_image(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.images[digest] = content
        return digest

    def tell(self, group: TrainingGroup) -> None:
        self.groups[group.id] = group
        self._append(group.id, "signal")

    def erase(self, group: str) -> None:
        self.groups[group] = None
        self._append(group, "erase")

    def _append(self, group: str, kind: str) -> None:
        with self._lock:
            seq = len(self.entries) + 1
            self.entries.append(FeedEntry(seq=seq, group_id=group, revision=seq, kind=kind))  # type: ignore[arg-type]

    def answered(self, asked: RolloutRequest, group: str) -> Rollout:
        """Fresh answers: those with token 10 are worth 1, those with 20 nothing."""
        source = self.groups[group]
        if source is None:
            return Rollout(group_id=group, reason="gone")
        name = f"roll-{len(self.rollouts)}-{group}"
        tokens = [[(10, 20)[number % 2], 30 + number, EOS] for number in range(asked.candidates)]
        candidates = [
            candidate(f"{name}.{number}", ids, adapter=asked.adapter, total=float(ids[0] == 10), logprobs=[-3.0] * 3)
            for number, ids in enumerate(tokens)
        ]
        changes = {"id": name, "candidates": candidates, "pairs": [], "unpaired": [], "rewarded": True}
        return Rollout(group_id=group, group=source.model_copy(update=changes))

    # --- routes -------------------------------------------------------------------------------------------

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.before(request.method, path)
        with self._lock:
            faulty = self.fault(request.method, path)
            if faulty is not None:
                return faulty
            for method, pattern, route in self._routes():
                match = re.fullmatch(pattern, path)
                if match and method == request.method:
                    return route(request, *match.groups())
            return error(404, f"no route {request.method} {path}")

    def _routes(self) -> list[tuple[str, str, Callable[..., httpx.Response]]]:
        return [
            ("GET", "/v1/training/config", lambda _: httpx.Response(200, json=self.config)),
            ("GET", "/v1/training/feed", self._feed),
            ("POST", "/v1/training/lease", self._lease),
            ("POST", "/v1/training/heartbeat", self._heartbeat),
            ("POST", "/v1/training/report", self._report),
            ("POST", "/v1/training/rollouts", self._rollouts),
            ("DELETE", "/v1/adapters/([^/]+)", self._delete),
            ("GET", "/v1/media/([0-9a-f]+)", self._media),
            ("POST", "/v1/adapters", self._begin),
            ("PUT", "/v1/adapters/([^/]+)/files/([^/]+)", self._put),
            ("POST", "/v1/adapters/([^/]+)/commit", self._commit),
            ("GET", "/v1/adapters", self._list),
            ("GET", "/v1/adapters/([^/]+)", lambda _, name: self._adapter(name)),
            ("GET", "/v1/adapters/([^/]+)/lineage", lambda _, name: self._lineage(name)),
            ("GET", "/v1/adapters/([^/]+)/files/([^/]+)", self._file),
        ]

    def _feed(self, request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        page = [entry for entry in self.entries if entry.seq > after][: self.page_size]
        entries = []
        for entry in page:
            group = self.groups.get(entry.group_id)
            entries.append({**entry.model_dump(), "group": group.model_dump(warnings=False) if group else None})
        body = {"entries": entries, "next": page[-1].seq if page else after, "head": len(self.entries)}
        return httpx.Response(200, text=json.dumps(body))

    def _lease(self, request: httpx.Request) -> httpx.Response:
        asked = LeaseRequest.model_validate_json(request.content)
        if self.owner not in {"", asked.owner}:
            return error(403, "Another learner holds this alias's lease.", "lease_held")
        self.owner, self.token = asked.owner, self.token + 1
        body = {"alias": asked.alias, "token": self.token, "expires_at": 2e9, "active": self.active}
        return httpx.Response(200, json={**body, "generation": 1, "head": len(self.entries)})

    def _heartbeat(self, request: httpx.Request) -> httpx.Response:
        beat = HeartbeatRequest.model_validate_json(request.content)
        if beat.token != self.token:
            return error(403, "This lease was lost; take a new one.", "lease_lost")
        self.heartbeats.append(beat)
        return httpx.Response(200, json={"expires_at": 2e9})

    def _report(self, request: httpx.Request) -> httpx.Response:
        self.reports.append(RoundReport.model_validate_json(request.content))
        return httpx.Response(204)

    def _rollouts(self, request: httpx.Request) -> httpx.Response:
        asked = RolloutRequest.model_validate_json(request.content)
        if asked.token != self.token:
            return error(403, "This lease was lost; take a new one.", "lease_lost")
        if asked.adapter != "base" and asked.adapter not in self.adapters:
            return error(404, "The model does not exist, or is not served.", "model_not_found")
        self.rollouts.append(asked)
        data = [self.roll_out(asked, group).model_dump(warnings=False) for group in asked.group_ids]
        return httpx.Response(200, text=json.dumps({"adapter": asked.adapter, "data": data}))

    def _delete(self, request: httpx.Request, name: str) -> httpx.Response:
        if self.states.get(name) != "ephemeral":
            return error(404, "There is no such adapter.", "adapter_not_found")
        self.deleted.append(name)
        del self.adapters[name], self.states[name]
        return httpx.Response(200, json={"id": name, "deleted": True})

    def _media(self, request: httpx.Request, digest: str) -> httpx.Response:
        content = self.images.get(digest)
        return httpx.Response(200, content=content) if content is not None else error(404, "no such image")

    def _begin(self, request: httpx.Request) -> httpx.Response:
        manifest = AdapterManifest.model_validate_json(request.content)
        if manifest.lease_token != self.token:
            return error(403, "This lease was lost; take a new one.", "lease_lost")
        upload = f"u{len(self._uploads)}"
        self._uploads[upload] = (manifest, {})
        return httpx.Response(200, json={"upload": upload, "missing": [file.name for file in manifest.files]})

    def _put(self, request: httpx.Request, upload: str, name: str) -> httpx.Response:
        if upload not in self._uploads:
            return error(404, "no such upload")
        manifest, files = self._uploads[upload]
        digest = hashlib.sha256(request.content).hexdigest()
        expected = next(file.sha256 for file in manifest.files if file.name == name)
        if not digest == expected == request.headers["x-content-sha256"]:
            return error(400, "other bytes than announced")
        files[name] = request.content
        return httpx.Response(204)

    def _commit(self, request: httpx.Request, upload: str) -> httpx.Response:
        manifest, files = self._uploads[upload]
        weights = hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
        name = f"{next(self._numbers):06d}-{weights[:8]}"
        self.adapters[name] = (manifest, files)
        self.states[name] = "ephemeral" if manifest.ephemeral else "staged"
        return self._adapter(name)

    def _describe(self, name: str) -> dict[str, Any]:
        manifest, _ = self.adapters[name]
        times = {"created_at": 1.0, "updated_at": 1.0}
        described = {"id": name, "alias": manifest.alias, "state": self.states[name], "parent": manifest.parent}
        files = {file.name: file.model_dump(exclude={"name"}) for file in manifest.files}
        published = {**manifest.model_dump(exclude={"files", "lease_token"}), "files": files}
        return {**described, **times, "manifest": published}

    def _adapter(self, name: str) -> httpx.Response:
        return httpx.Response(200, json=self._describe(name)) if name in self.adapters else error(404, "no adapter")

    def _lineage(self, name: str) -> httpx.Response:
        ancestors = []
        parent = self.adapters[name][0].parent
        while parent in self.adapters:
            ancestors.append(parent)
            parent = self.adapters[parent][0].parent
        return httpx.Response(200, json={"adapter": name, "ancestors": [*ancestors, parent], "descendants": []})

    def _list(self, request: httpx.Request) -> httpx.Response:
        listed = [{**self._describe(name), "manifest": None} for name in self.adapters]
        return httpx.Response(200, json={"object": "list", "data": listed})

    def _file(self, request: httpx.Request, name: str, file: str) -> httpx.Response:
        return httpx.Response(200, content=self.adapters[name][1][file])


def error(status: int, message: str, code: str | None = None) -> httpx.Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return httpx.Response(status, json={"error": body}, headers={"x-request-id": "req-1"})
