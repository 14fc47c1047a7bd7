"""What the phases of one round share: where it works, under which lease, from what, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from learner.errors import Stopped
from learner.lease import Heart
from learner.material import Material
from learner.metrics import Clock
from learner.workplace import Workplace
from server.wire.training import LeaseReply, TrainingConfig


@dataclass(slots=True)
class Context:
    place: Workplace
    lease: LeaseReply
    config: TrainingConfig
    heart: Heart
    clock: Clock
    material: Material = field(init=False)

    def __post_init__(self) -> None:
        self.material = Material(self.place, self.pause_point)

    def pause_point(self) -> None:
        """Raises `Stopped` or `LeaseLost` where the round must not go on."""
        if self.place.stop.is_set():
            raise Stopped
        self.heart.check()

    def tell(self, phase: str, metrics: dict[str, float] | None = None) -> None:
        """Operators see the phase and its metrics with the next heartbeat."""
        self.clock.enter(phase)
        self.heart.tell(phase, metrics)
