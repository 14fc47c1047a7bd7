"""The end of a round: its adapter goes to the server, its report goes to the operators, and the state moves on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from clients.client import PlumblineError
from learner.context import Context
from learner.errors import LeaseLost
from learner.lease import LOST_STATUSES
from learner.metrics import finite
from learner.publish import FILES, keep, read_kept, upload_once
from learner.state import RoundState
from server.wire.adapters import AdapterManifest
from server.wire.training import RoundReport

GONE: Final = "gone since the round was planned"
"""Why a group was left out in mid-round: erased, set aside, taken back, expired, or pushed out by newer ones."""
KEPT_ADAPTERS: Final = 4
"""Adapters whose files are kept for continuing them."""

logger = logging.getLogger(__name__)


def upload(context: Context, state: RoundState) -> None:
    """Raises `LeaseLost`; whatever else the server says ends the round."""
    context.tell("upload")
    place = context.place
    assert state.manifest is not None
    manifest = AdapterManifest.model_validate_json(state.manifest)
    manifest = manifest.model_copy(update={"lease_token": context.lease.token})
    files = read_kept(place.directory.round_dir(state.number))
    if files is None:
        state.end("discarded", "the adapter's files are gone")
        return

    try:
        adapter = place.patiently(lambda: upload_once(place.client, manifest, files), context.heart.check)
    except PlumblineError as error:
        context.heart.beat()  # a refusal may be the lost lease's
        context.heart.check()
        if error.status in LOST_STATUSES and error.status != 404:
            raise LeaseLost(f"the upload was refused: {error}") from error
        state.end("discarded", f"the server refused the upload: {error}")
        place.patiently(lambda: place.follow_feed(state.settings.capacity))
        state.owes_its_signals = any(place.replay.get(group) is None for group in manifest.groups)
        return
    place.at("uploaded")
    keep(files, place.directory.adapters / adapter)
    _trim_adapters(place.directory.adapters, keep={adapter, state.parent})
    state.adapter = adapter
    place.state.last_adapter = adapter
    place.state.reliabilities = state.reliabilities
    state.end("uploaded", "")


def report(context: Context, state: RoundState) -> None:
    """What the round was; afterwards the state holds none."""
    place = context.place
    assert state.outcome is not None
    context.tell("report")
    gone = sum(place.replay.get(group) is None for group in state.plan)
    detail = {
        **state.detail,
        "round": state.number,
        "parent": state.parent,
        "groups": len(state.plan),
        "signals": state.signals,
        "feed_after": state.feed_after,
        "feed_upto": state.feed_upto,
        "skipped": state.skipped | ({GONE: gone} if gone else {}),
        "kept_back": len(state.kept_back),
        "epochs": [one.model_dump() for one in state.epochs],
        "seconds": round(sum(state.seconds.values()), 3),
        "phase_seconds": {phase: round(value, 3) for phase, value in state.seconds.items()},
        "before": state.before.model_dump() if state.before else None,
        "after": state.after.model_dump() if state.after else None,
    }
    told = RoundReport(
        alias=place.alias,
        token=context.lease.token,
        outcome=state.outcome,
        round=f"{place.state.owner}-{state.number}",
        adapter=state.adapter,
        reason=state.reason[:4000],
        detail=finite(detail),
    )
    try:
        place.patiently(lambda: place.client.report_round(told))
    except PlumblineError as error:
        logger.warning("the round's report was refused: %s", error)
    place.at("reported")
    logger.info("round %d %s %s%s", state.number, state.outcome, state.adapter or "", state.reason)
    place.state.rounds = state.number
    if state.owes_its_signals:  # what it learned was erased meanwhile: the next one learns the rest, at once
        place.state.new_signals += state.signals - gone
        place.state.trained_upto = state.feed_after
    place.state.round = None
    place.save()
    place.directory.clear_rounds()


def _trim_adapters(directory: Path, keep: set[str]) -> None:
    """Remove the files of the oldest adapters; they can be fetched again."""
    others = sorted((path for path in directory.iterdir() if path.name not in keep), key=lambda p: p.stat().st_mtime)
    for path in others[: max(0, len(others) + len(keep) - KEPT_ADAPTERS)]:
        for file in FILES:
            (path / file).unlink(missing_ok=True)
        path.rmdir()
