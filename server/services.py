"""What a request handler may use, assembled once by `server.app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.config import AliasConfig, Config
from server.errors import NotFound
from server.store.blobs import BlobStore
from server.store.database import Database

if TYPE_CHECKING:
    from server.adapters.registry import AdapterRegistry
    from server.adapters.rollout import Rollout
    from server.adapters.routing import Router
    from server.engine.port import Engine
    from server.engine.supervisor import Supervisor
    from server.metrics import Metrics
    from server.pipeline.pipeline import Pipeline
    from server.tokens import Signer


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    database: Database
    blobs: BlobStore
    engine: Engine
    supervisor: Supervisor | None
    registry: AdapterRegistry
    router: Router
    rollout: Rollout
    pipeline: Pipeline
    signer: Signer
    metrics: Metrics
    base_digest: str

    def alias(self, name: str) -> AliasConfig:
        """The alias's settings; raises `NotFound`."""
        for alias in self.config.aliases:
            if alias.name == name:
                return alias
        raise NotFound(
            "The model does not exist; GET /v1/models lists those that do.", param="model", code="model_not_found"
        )
