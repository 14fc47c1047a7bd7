"""The adapters: published once as an immutable directory, found by id, verified at every use of importance.

Publishing, in this order: check the uploaded files, take a number, put the directory in place
(`server.adapters.directory`), copy it to the shared store where there is one, then the row, its report and the audit
entry in one transaction. What a crash leaves without a row `start` removes; what a database leaves that did not say
whether the row is there, the next upload removes. An id is a number and a digest of the content: it never names two
contents.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from server import faults
from server.adapters import lineage, states
from server.adapters.base_model import BaseModel
from server.adapters.directory import AdapterDirectory, Signature
from server.adapters.files import FILES, TENSORS, Checked, check_files, is_published, rejected
from server.adapters.mirror import AdapterMirror
from server.adapters.states import Mover
from server.adapters.uploads import Upload, Uploads
from server.config import LORA_TARGET_MODULES
from server.errors import BadRequest, Forbidden, NotFound, StorageUnavailable
from server.store import adapters as rows
from server.store import audit, feed, leases
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, FeedKind, Report
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE

log = logging.getLogger(__name__)

GRACE_S: Final = 4 * 3600.0
"""An adapter's directory is there before its row. Only after this time is one without a row left over."""
CLEARED: Final = "the next start of the server removes it"


def unknown_adapter() -> NotFound:
    return NotFound("There is no such adapter.", code="adapter_not_found")


class AdapterRegistry:
    """The only writer of the adapter directory and of adapter rows outside of routing moves.

    `directory` is shared with the engines, `uploads` must lie on the same file system. `engine_model` is the
    engine's own `--model` string, letter for letter. `clock` gives UTC seconds since the epoch. `mirror` is how other
    servers get at what is published here, and this one at theirs. `max_ephemeral` are alive for each alias.
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
        self._directory = AdapterDirectory(directory, engine_model=engine_model)
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
        self._verified: dict[str, Signature | None] = {}
        """What an adapter's files looked like when their hashes were right."""
        self._is_in_doubt = False
        """Whether a row was written of which the database did not say that it is there."""

    async def start(self) -> None:
        """Clear what crashes left, and read the base model's shapes. Before the engine starts."""
        known = {record.id for record in await self.find()}

        def prepare() -> BaseModel | None:
            self._uploads.start()
            self._directory.clear(known)
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
        if self._is_in_doubt:
            async with self._publishing:
                await self._settle()  # it makes room
        return await self._uploads.begin(manifest)

    async def put_file(
        self,
        upload_id: str,
        name: str,
        chunks: AsyncIterator[bytes],
        sha256: str | None = None,
        *,
        offset: int | None = None,
    ) -> Upload:
        return await self._uploads.put(upload_id, name, chunks, sha256, offset=offset)

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
        await self._settle()
        number = await self._database.write(rows.next_number)
        now = self._clock()
        manifest = upload.manifest
        adapter_id = f"a{number:05d}-{checked.digest[:12]}"
        body = await asyncio.to_thread(self._directory.write, adapter_id, upload, checked)
        self._verified[adapter_id] = self._directory.signature(adapter_id)
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
            self._is_in_doubt = True  # the row may be there all the same, and then it needs its files
            raise
        except Exception:
            await self._remove_files(adapter_id)
            raise
        await faults.async_point("adapter.after_commit")
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
        alive = rows.list_adapters(connection, alias=record.alias, states={AdapterState.EPHEMERAL})
        dropped = [one.id for one in alive[: max(0, len(alive) - self._max_ephemeral)]]
        for adapter_id in dropped:
            self._delete_ephemeral(connection, adapter_id, actor)
        return dropped

    def _require_origin(self, connection: Connection, manifest: AdapterManifest) -> None:
        """Nobody has taken the alias's lease from the uploader, and the parent is an adapter of the alias."""
        if manifest.lease_token is not None:
            lease = leases.get_lease(connection, manifest.alias)
            if lease is None or lease.token != manifest.lease_token:
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

    async def _settle(self) -> None:
        """Where a row was in doubt, remove what has none. While nothing is published; raises `StorageUnavailable`."""
        if not self._is_in_doubt:
            return
        # A write, because it waits for whatever of an earlier transaction is still under way.
        known = await self._database.write(rows.list_adapters)
        for name in await asyncio.to_thread(self._directory.names) - {record.id for record in known}:
            await self._remove_files(name)
        self._is_in_doubt = False

    async def _remove_files(self, adapter_id: str) -> None:
        """Of an adapter without a row: what cannot be removed from the shared store is only waste there."""
        self._verified.pop(adapter_id, None)
        await asyncio.to_thread(self._directory.remove, adapter_id)
        if self._mirror is not None:
            try:
                await self._mirror.remove(adapter_id)
            except StorageUnavailable as error:
                log.warning("files of %s stay in the shared store: %s", adapter_id, error.cause)

    async def _is_fetched(self, record: AdapterRecord) -> bool:
        """Whether the shared store had the adapter's files, and they are here now."""
        if self._mirror is None or not await self._mirror.fetch(record):
            return False
        self._verified[record.id] = self._directory.signature(record.id)
        return True

    def path(self, adapter_id: str) -> Path:
        return self._directory.path(adapter_id)

    def is_intact(self, adapter_id: str) -> bool:
        """Whether it can be served, as far as a look tells that is cheap enough for a rollback: it is for this base
        model, its files are there at their sizes, and nobody wrote to them since their hashes were right. Base always
        can.
        """
        if adapter_id == BASE:
            return True
        is_untouched = adapter_id not in self._verified or self._is_as_verified(adapter_id)
        return is_untouched and self._directory.is_whole(adapter_id, base_digest=self._base_digest)

    def _is_as_verified(self, adapter_id: str) -> bool:
        signature = self._directory.signature(adapter_id)
        return signature is not None and self._verified.get(adapter_id) == signature

    def _is_for_base(self, record: AdapterRecord) -> bool:
        return record.manifest.get("base_digest") == self._base_digest

    async def verify(self, adapter_id: str) -> bool:
        """Whether it is an adapter of this base model whose files still are what was published, by hash against the
        row. Base always is.

        What is missing or damaged here is fetched from the shared store, where there is one.
        """
        if adapter_id == BASE:
            return True
        record = await self._database.read(lambda c: rows.get_adapter(c, adapter_id))
        return record is not None and await self.fault(record) is None

    async def fault(self, record: AdapterRecord) -> str | None:
        """Why an adapter cannot be served, in words."""
        if not self._is_for_base(record):
            return "was trained on another base model"
        signature = self._directory.signature(record.id)
        if await asyncio.to_thread(is_published, self.path(record.id), record.manifest):
            self._verified[record.id] = signature
            return None
        self._verified[record.id] = None
        return None if await self._is_fetched(record) else "is not what was published"

    async def file(self, adapter_id: str, name: str) -> Path:
        """Where one of an adapter's three files lies; raises `NotFound`."""
        record = await self.get(adapter_id)
        is_here = self._directory.is_whole(adapter_id)
        if name not in FILES or not (is_here or await self._is_fetched(record)):
            raise NotFound("An adapter has no such file.", code="file_not_found")
        return self.path(adapter_id) / name

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
            raise NotFound(
                "The model does not exist, or is not served; GET /v1/models lists those that are.",
                param="model",
                code="model_not_found",
            )
        if not self._is_as_verified(adapter_id) and (fault := await self.fault(record)) is not None:
            raise NotFound(f"The model {fault}.", param="model", code="model_not_found")
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

        await faults.async_point("adapter.before_advance")

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

    async def check(
        self, now: float, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[tuple[str, str]]:
        """What is wrong with the files and what to do: adapters that cannot be served, and what belongs to nothing.

        Files younger than `GRACE_S` may still get their row.
        """
        records = await self.find()
        found = {}
        for number, record in enumerate(records, 1):
            progress(number, len(records))
            fault = await self.fault(record)
            if fault is not None:
                found[record.id] = fault
        left = await asyncio.to_thread(self._directory.left_over, now - GRACE_S)
        uploads = await asyncio.to_thread(self._uploads.left_over, now - GRACE_S)
        known = {record.id for record in await self.find()}  # what came or went meanwhile is no finding
        lost = "restore the state from a backup, or quarantine the adapter"
        return [
            *((f"adapter {one} {fault}", lost) for one, fault in found.items() if one in known),
            *((f"{one} among the adapters belongs to nothing", CLEARED) for one in left if one not in known),
            *((f"{one} among the uploads belongs to nobody", CLEARED) for one in uploads),
        ]
