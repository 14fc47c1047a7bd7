"""What the learner remembers: one JSON file, replaced atomically, so that cursor and round never disagree.

A round that is in this file is resumed by the next start, whatever ended the last one. The groups themselves
lie in the replay's files; applying a feed entry twice changes nothing, so they may be one step ahead of the cursor.
"""

from __future__ import annotations

import fcntl
import shutil
import uuid
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from learner.errors import LearnerError
from learner.files import write_atomic
from learner.settings import Settings

Outcome = Literal["uploaded", "discarded", "skipped"]


class Standing(BaseModel):
    """How well a policy agrees with the signals it is trained on; what counts less by its age counts less here."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    examples: int = 0
    accuracy: float = 0.0
    """Share of examples whose implicit reward points the way the person did."""
    margin: float = 0.0
    """Mean implicit reward, in that direction."""
    loss: float = 0.0
    """Mean of 1 − σ(implicit reward), in that direction: how surely it contradicts people."""
    kl: float = 0.0
    """Mean KL(policy ‖ base) per token of stored answers, whole vocabulary."""


class RoundState(BaseModel):
    """One round from its plan to its report."""

    model_config = ConfigDict(extra="forbid")

    number: int
    phase: Literal["training", "upload", "report"] = "training"
    parent: str
    settings: Settings
    seed: int
    plan: list[str]
    """Group ids, in the order of their arrival."""
    signals: int
    """Human signals that this round answers to."""
    feed_after: int
    feed_upto: int
    skipped: dict[str, int] = {}
    reliabilities: dict[str, float] = {}
    """Of the annotators whom it hears: as earlier rounds found them, from phase "upload" on as this one did."""
    easy_first: list[str] = []
    """The plan's groups in the order of a curriculum; empty: the seed decides."""
    kept_back: list[str] = []
    """Group ids that it measures itself by instead."""
    epochs: list[Standing] = []
    """How it stood to those after each epoch."""
    before: Standing | None = None
    after: Standing | None = None
    manifest: str | None = None
    """JSON of the upload's manifest, from phase "upload" on."""
    seconds: dict[str, float] = {}
    """Spent in each phase so far, by every process that worked on the round."""
    detail: dict[str, object] = {}
    outcome: Outcome | None = None
    reason: str = ""
    owes_its_signals: bool = False
    """They count again for the next round."""
    adapter: str | None = None

    def end(self, outcome: Outcome, reason: str) -> None:
        """Nothing but the report is left to do."""
        self.outcome, self.reason, self.phase = outcome, reason, "report"


class State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str = Field(default_factory=lambda: f"learner-{uuid.uuid4().hex[:12]}")
    """Who we are to the server; the same after a restart, so that our own lease is ours again."""
    cursor: int = 0
    """Seq of the last feed entry applied."""
    new_signals: int = 0
    """Human signals applied since the last plan."""
    trained_upto: int = 0
    """Cursor at the last plan."""
    rounds: int = 0
    round: RoundState | None = None
    last_adapter: str | None = None
    reliabilities: dict[str, float] = {}
    """Of the annotators whom the last uploaded round heard."""
    retraining: int = 0
    """Number of the newest order to learn again that was obeyed."""


class StateDir:
    """The learner's directory for one alias, locked for one process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory
        self._lock = _locked(directory / "lock")
        self.replay = _made(directory / "replay")
        self.media = _made(directory / "media")
        self.adapters = _made(directory / "adapters")
        self.tensorboard = directory / "tensorboard"

    def close(self) -> None:
        self._lock.close()

    def load(self) -> State:
        file = self.path / "state.json"
        if not file.exists():
            state = State()
            self.save(state)
            return state
        try:
            return State.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise LearnerError(f"{file} is not this version's; remove its directory to start afresh") from error

    def save(self, state: State) -> None:
        write_atomic(self.path / "state.json", state.model_dump_json().encode())

    def round_dir(self, number: int) -> Path:
        return _made(self.path / f"round-{number:06d}")

    def clear_rounds(self, keep: int | None = None) -> None:
        """Remove the working files of all rounds but one."""
        for directory in self.path.glob("round-*"):
            if keep is None or directory.name != f"round-{keep:06d}":
                shutil.rmtree(directory)


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def _locked(file: Path) -> IO[bytes]:
    handle = file.open("wb")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise LearnerError(f"{file.parent} is in use by another learner") from error
    return handle
