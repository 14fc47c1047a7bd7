"""What a request handler may use, assembled once by `server.installation`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.config import AliasConfig, Config
from server.errors import NotFound
from server.store.blobs import BlobStore
from server.store.database import Database
from server.wire.chat import ChatMessage, ToolDefinition

if TYPE_CHECKING:
    from reward.types import Prompt
    from server.adapters.lease import RoutingLease
    from server.adapters.registry import AdapterRegistry
    from server.adapters.rollout import Rollout
    from server.adapters.routing import Router
    from server.budgets import Budgets
    from server.engine.pool import EnginePool
    from server.exchange.importing import ImportDesk
    from server.feedback import FeedbackDesk
    from server.inflight import InFlight
    from server.keys import KeyRing
    from server.metrics import Metrics
    from server.pipeline.admission import Admission
    from server.pipeline.pipeline import Pipeline
    from server.rollouts import RolloutDesk
    from server.tokens import Signer
    from server.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Services:
    """One installation, ready to serve."""

    config: Config
    started_at: int
    base_digest: str
    database: Database
    blobs: BlobStore
    engine: EnginePool
    registry: AdapterRegistry
    router: Router
    lease: RoutingLease
    rollout: Rollout
    keys: KeyRing
    budgets: Budgets
    admission: Admission
    assembler: Callable[[Sequence[ChatMessage], Sequence[ToolDefinition]], Awaitable[Prompt]]
    """The wire's messages as a prompt."""
    in_flight: InFlight
    pipeline: Pipeline
    feedback: FeedbackDesk
    importing: ImportDesk
    rollout_desk: RolloutDesk
    signer: Signer
    metrics: Metrics
    feed_positions: dict[str, int]
    """Up to which entry each alias's learner had read the feed when it last asked this server."""
    tracing: Tracing

    def alias(self, name: str) -> AliasConfig:
        """The alias's settings; raises `NotFound`."""
        for alias in self.config.aliases:
            if alias.name == name:
                return alias
        raise NotFound("There is no such alias.", param="alias", code="alias_not_found")
