"""The adapters: published once as an immutable directory, found by id, verified at every use of importance.

Publishing, in this order: check the uploaded files, take a number, write everything under a temporary name, sync,
rename to `adapters/<id>`, copy to the shared store where there is one, then the row, its report and the audit entry
in one transaction. A crash before the rename leaves a temporary directory, a crash after it a directory without a
row; nobody can ask for either, and `start` removes both. An id is a number and a digest of the content: it never
names two contents.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from server.adapters import lineage, states
from server.adapters.base_model import BaseModel
from server.adapters.files import CONFIG, FILES, MANIFEST, TENSORS, Checked, check_files, is_published, rejected
from server.adapters.mirror import AdapterMirror
from server.adapters.states import Mover
from server.adapters.uploads import Upload, Uploads
from server.config import LORA_TARGET_MODULES
from server.errors import BadRequest, Forbidden, NotFound, StorageUnavailable
from server.store import adapters as rows
from server.store import audit, feed, leases
from server.store.blobs import sync_directory, sync_file, write_durably
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, FeedKind, Report
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE

log = logging.getLogger(__name__)


def unknown_adapter() -> NotFound:
    return NotFound("There is no such adapter.", code="adapter_not_found")


class AdapterRegistry:
    """The only writer of the adapter directory and of adapter rows outside of routing moves.

    `directory` is shared with the engines, `uploads` must lie on the same file system. `engine_model` is the
    engine's own `--model` string, letter for letter. `clock` gives UTC seconds since the epoch. `mirror` is how other
    servers get at what is published here, and this one at theirs.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        uploads: Path,
        *,
        engine_model: str,
        base_digest: str,
        max_lora_rank: int,
        aliases: Collection[str],
        clock: Callable[[], float],
        lora_modules: Collection[str] = LORA_TARGET_MODULES,
        min_free_bytes: int = 0,
        max_ephemeral: int = 2,
        on_move: Callable[[str, AdapterState], None] = lambda alias, state: None,
        mirror: AdapterMirror | None = None,
    ) -> None:
        self._database = database
        self._directory = directory
        self._mirror = mirror
        self._uploads = Uploads(uploads, min_free_bytes=min_free_bytes)
        self._engine_model = engine_model
        self._base_digest = base_digest
        self._max_lora_rank = max_lora_rank
        self._aliases = frozenset(aliases)
        self._clock = clock
        self._lora_modules = frozenset(lora_modules)
        self._max_ephemeral = max_ephemeral
        self._on_move = on_move
        self._base: BaseModel | None = None
        self._publishing = asyncio.Lock()

    async def start(self) -> None:
        """Clear what crashes left, and read the base model's shapes. Before the engine starts."""
        known = {record.id: record for record in await self.find()}

        def prepare() -> BaseModel | None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._uploads.start()
            for entry in sorted(self._directory.iterdir()):
                if entry.name not in known:
                    shutil.rmtree(entry, ignore_errors=True)
            return BaseModel.load(self._engine_model)

        self._base = await asyncio.to_thread(prepare)

    # --- upload -------------------------------------------------------------------------------------------

    async def begin(self, manifest: AdapterManifest) -> Upload:
        """Open an upload; what can be refused by its manifest is refused here already."""
        if manifest.alias not in self._aliases:
            raise NotFound("There is no such alias.", param="alias", code="model_not_found")
        if manifest.base_digest != self._base_digest:
            raise rejected("it was trained on another base model (base_digest differs)")
        await self._database.read(lambda c: self._require_origin(c, manifest))
        return await self._uploads.begin(manifest)

    async def put_file(
        self, upload_id: str, name: str, chunks: AsyncIterator[bytes], sha256: str | None = None
    ) -> Upload:
        return await self._uploads.put(upload_id, name, chunks, sha256)

    async def commit(self, upload_id: str, *, actor: str) -> AdapterRecord:
        """Check and publish; the adapter is `staged` (or `ephemeral`) and durable once this returns.

        Raises `NotFound`, `BadRequest` (`upload_incomplete`, `adapter_rejected`), `Forbidden` (`lease_lost`) or
        `StorageUnavailable`. Whatever it raises, nothing is published; all but an incomplete upload is dropped.
        """
        upload = self._uploads.take(upload_id)
        return await asyncio.shield(self._commit(upload, actor))  # a caller that goes away leaves nothing half done

    async def _commit(self, upload: Upload, actor: str) -> AdapterRecord:
        try:
            checked = await asyncio.to_thread(self._check, upload)
            async with self._publishing:
                return await self._publish(upload, checked, actor)
        except BadRequest as error:
            await self._note_refusal(upload.manifest, error.public, actor)
            raise
        except OSError as error:
            raise StorageUnavailable(f"adapters: {error}") from error
        finally:
            await self._uploads.discard(upload)

    def _check(self, upload: Upload) -> Checked:
        tensors = upload.expected(TENSORS)
        assert tensors is not None
        return check_files(
            upload.directory,
            tensors_sha256=tensors.sha256,
            max_lora_rank=self._max_lora_rank,
            lora_modules=self._lora_modules,
            base=self._base,
        )

    async def _publish(self, upload: Upload, checked: Checked, actor: str) -> AdapterRecord:
        number = await self._database.write(rows.next_number)
        now = self._clock()
        manifest = upload.manifest
        adapter_id = f"a{number:05d}-{checked.digest[:12]}"
        body = await asyncio.to_thread(self._write_directory, adapter_id, upload, checked)
        state = AdapterState.EPHEMERAL if manifest.ephemeral else AdapterState.STAGED
        record = AdapterRecord(adapter_id, number, manifest.alias, state, manifest.parent, body, now, now)
        try:
            if self._mirror is not None:
                await self._mirror.publish(adapter_id)
        except Exception:
            await self._remove_files(adapter_id)
            raise
        try:
            dropped = await self._database.write(lambda c: self._insert(c, record, manifest, checked, actor))
        except StorageUnavailable:
            raise  # the row may be there all the same, and needs its files; `start` removes those without one
        except Exception:
            await self._remove_files(adapter_id)
            raise
        for old in dropped:
            await self._remove_files(old)
        self._on_move(record.alias, state)
        return record

    def _insert(
        self, connection: Connection, record: AdapterRecord, manifest: AdapterManifest, checked: Checked, actor: str
    ) -> list[str]:
        """The row and all that goes with it; the ephemeral adapters that had to make room."""
        self._require_origin(connection, manifest)
        if feed.was_told(connection, manifest.alias, manifest.groups, FeedKind.ERASE, manifest.feed_upto):
            raise rejected("a user's data that it learned from was erased since; train again without it")
        now = record.created_at
        rows.insert_adapter(connection, record)
        rows.add_sources(connection, record.id, [*manifest.groups, *manifest.annotators])
        figures = {
            "modules": checked.modules,
            "parameters": checked.parameters,
            "rank": checked.config["r"],
            "largest_rms": checked.largest_rms,
            "shapes_checked": self._base is not None,
        }
        rows.add_report(connection, record.id, Report("integrity", "passed", figures, now))
        detail = {"alias": record.alias, "state": record.state.value, "parent": record.parent}
        audit.record(connection, actor=actor, action="publish", subject=record.id, detail=detail, now=now)
        if record.state is not AdapterState.EPHEMERAL:
            return []
        alive = rows.list_adapters(connection, states={AdapterState.EPHEMERAL})
        dropped = [one.id for one in alive[: max(0, len(alive) - self._max_ephemeral)]]
        for adapter_id in dropped:
            self._delete_ephemeral(connection, adapter_id, actor)
        return dropped

    def _require_origin(self, connection: Connection, manifest: AdapterManifest) -> None:
        """The uploader still holds the alias's lease, and the parent is an adapter of the alias."""
        if manifest.lease_token is not None:
            lease = leases.get_lease(connection, manifest.alias)
            if lease is None or lease.token != manifest.lease_token or lease.expires_at <= self._clock():
                raise Forbidden("The training lease was lost; take a new one and train again.", code="lease_lost")
        if manifest.parent == BASE:
            return
        parent = rows.get_adapter(connection, manifest.parent)
        if parent is None or parent.alias != manifest.alias or parent.state is AdapterState.EPHEMERAL:
            raise rejected("its parent is not an adapter of this alias")

    async def _note_refusal(self, manifest: AdapterManifest, reason: str, actor: str) -> None:
        detail = {"reason": reason, "parent": manifest.parent}
        now = self._clock()
        await self._database.write(
            lambda c: audit.record(
                c, actor=actor, action="refuse_upload", subject=manifest.alias, detail=detail, now=now
            )
        )

    # --- directories --------------------------------------------------------------------------------------

    def _write_directory(self, adapter_id: str, upload: Upload, checked: Checked) -> dict[str, Any]:
        """Put the adapter's directory in place, durably; what its manifest says. Blocking."""
        config = json.dumps({**checked.config, "base_model_name_or_path": self._engine_model}, indent=2).encode()
        tensors = upload.expected(TENSORS)
        assert tensors is not None
        body: dict[str, Any] = {
            "id": adapter_id,
            **upload.manifest.model_dump(mode="json", exclude={"files", "lease_token", "groups", "annotators"}),
            "digest": checked.digest,
            "files": {
                CONFIG: {"size_bytes": len(config), "sha256": hashlib.sha256(config).hexdigest()},
                TENSORS: {"size_bytes": tensors.size_bytes, "sha256": tensors.sha256},
            },
        }
        temporary = self._directory / f".{adapter_id}.{os.urandom(6).hex()}"
        try:
            temporary.mkdir()
            (upload.directory / TENSORS).replace(temporary / TENSORS)
            sync_file(temporary / TENSORS)
            write_durably(temporary / CONFIG, config)
            write_durably(temporary / MANIFEST, json.dumps(body, indent=2).encode())
            temporary.rename(self._directory / adapter_id)
            sync_directory(self._directory)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return body

    async def _remove_files(self, adapter_id: str) -> None:
        """Of an adapter without a row: what cannot be removed from the shared store is only waste there."""
        await asyncio.to_thread(shutil.rmtree, self._directory / adapter_id, ignore_errors=True)
        if self._mirror is not None:
            try:
                await self._mirror.remove(adapter_id)
            except StorageUnavailable as error:
                log.warning("files of %s stay in the shared store: %s", adapter_id, error.cause)

    async def _has_files(self, record: AdapterRecord, is_here: bool) -> bool:
        """Whether the adapter's files are here, or could be fetched."""
        return is_here or (self._mirror is not None and await self._mirror.fetch(record))

    def path(self, adapter_id: str) -> Path:
        return self._directory / adapter_id

    def is_intact(self, adapter_id: str) -> bool:
        """Whether the files are there at their sizes: cheap enough for a rollback. Base always is."""
        if adapter_id == BASE:
            return True
        directory = self._directory / adapter_id
        try:
            files = json.loads((directory / MANIFEST).read_bytes())["files"]
            return all((directory / name).stat().st_size == files[name]["size_bytes"] for name in (CONFIG, TENSORS))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    async def verify(self, adapter_id: str) -> bool:
        """Whether the files still are what was published, by hash against the row. Base always is.

        What is missing or damaged here is fetched from the shared store, where there is one.
        """
        if adapter_id == BASE:
            return True
        record = await self._database.read(lambda c: rows.get_adapter(c, adapter_id))
        if record is None:
            return False
        is_here = await asyncio.to_thread(is_published, self._directory / adapter_id, record.manifest)
        return await self._has_files(record, is_here)

    async def file(self, adapter_id: str, name: str) -> Path:
        """Where one of an adapter's three files lies; raises `NotFound`."""
        record = await self.get(adapter_id)
        if name not in FILES or not await self._has_files(record, self.is_intact(adapter_id)):
            raise NotFound("An adapter has no such file.", code="file_not_found")
        return self._directory / adapter_id / name

    # --- rows ---------------------------------------------------------------------------------------------

    async def get(self, adapter_id: str) -> AdapterRecord:
        """Raises `NotFound` (`adapter_not_found`)."""
        record = await self._database.read(lambda c: rows.get_adapter(c, adapter_id))
        if record is None:
            raise unknown_adapter()
        return record

    async def servable(self, adapter_id: str) -> AdapterRecord:
        """The adapter, for an operator or the learner who asks for it by id; else `NotFound` (`model_not_found`)."""
        record = await self._database.read(lambda c: rows.get_adapter(c, adapter_id))
        if record is None or record.state not in states.SERVABLE:
            raise NotFound("The model does not exist, or is not served.", param="model", code="model_not_found")
        if not await self._has_files(record, self.is_intact(adapter_id)):
            raise NotFound("The model's files are damaged.", param="model", code="model_not_found")
        return record

    async def find(
        self, *, alias: str | None = None, states: Collection[AdapterState] | None = None
    ) -> list[AdapterRecord]:
        """Oldest first."""
        return await self._database.read(lambda c: rows.list_adapters(c, alias=alias, states=states))

    async def reports(self, subject: str) -> list[Report]:
        """Oldest first."""
        return await self._database.read(lambda c: rows.get_reports(c, subject))

    async def lineage(self, adapter_id: str) -> tuple[list[str], list[str]]:
        """(ancestors, nearest first; descendants, oldest first); raises `NotFound`."""
        record = await self.get(adapter_id)
        known = {one.id: one for one in await self.find(alias=record.alias)}
        return lineage.ancestors(adapter_id, known), lineage.descendants(adapter_id, known)

    async def advance(
        self, adapter_id: str, state: AdapterState, *, actor: str, report: Report | None = None, reason: str = ""
    ) -> bool:
        """The server's own move outside of routing (verified, gated, rejected), with its report, in one write.

        False when somebody else has moved the adapter meanwhile; then nothing is written.
        """
        now = self._clock()
        before = states.sources_of(state, Mover.SERVER) - {AdapterState.CANARY, AdapterState.ACTIVE}

        def run(connection: Connection) -> AdapterRecord | None:
            if not rows.set_state(connection, adapter_id, before, state, now):
                return None
            if report is not None:
                rows.add_report(connection, adapter_id, report)
            detail = {"state": state.value, "reason": reason}
            audit.record(connection, actor=actor, action="advance", subject=adapter_id, detail=detail, now=now)
            return rows.get_adapter(connection, adapter_id)

        moved = await self._database.write(run)
        if moved is not None:
            self._on_move(moved.alias, state)
        return moved is not None

    async def add_report(self, subject: str, report: Report) -> None:
        await self._database.write(lambda c: rows.add_report(c, subject, report))

    async def delete_ephemeral(self, adapter_id: str, *, actor: str) -> None:
        """Forget an ephemeral adapter; raises `NotFound` when there is none of this id."""

        def run(connection: Connection) -> None:
            record = rows.get_adapter(connection, adapter_id)
            if record is None or record.state is not AdapterState.EPHEMERAL:
                raise unknown_adapter()
            self._delete_ephemeral(connection, adapter_id, actor)

        await self._database.write(run)
        await self._remove_files(adapter_id)

    def _delete_ephemeral(self, connection: Connection, adapter_id: str, actor: str) -> None:
        rows.delete_adapter(connection, adapter_id)
        audit.record(connection, actor=actor, action="delete", subject=adapter_id, detail={}, now=self._clock())

    async def check(self) -> list[str]:
        """What is wrong with the directory, in words: adapters that are no longer what was published."""
        return [f"{one.id} is damaged" for one in await self.find() if not await self.verify(one.id)]
