"""`GET /v1/models`: what may be asked for."""

from __future__ import annotations

from fastapi import APIRouter

from server.adapters.states import SERVABLE
from server.api.deps import AppCaller, Principal, Role, ServicesDep
from server.errors import NotFound
from server.services import Services
from server.wire.chat import ModelCard, ModelList

router = APIRouter()


@router.get("/v1/models")
async def list_models(caller: AppCaller, services: ServicesDep) -> ModelList:
    """The aliases, and for operators and learners the adapters that may be asked for by id."""
    return ModelList(data=await _cards(caller, services))


@router.get("/v1/models/{model}")
async def get_model(model: str, caller: AppCaller, services: ServicesDep) -> ModelCard:
    """One of the list."""
    found = next((card for card in await _cards(caller, services) if card.id == model), None)
    if found is None:
        raise unknown_model()
    return found


async def _cards(caller: Principal, services: Services) -> list[ModelCard]:
    cards = [ModelCard(id=alias.name, created=services.started_at) for alias in services.config.aliases]
    if caller.role is not Role.APP:
        found = await services.registry.find(states=SERVABLE)
        cards += [ModelCard(id=one.id, created=int(one.created_at)) for one in found]
    return cards


def unknown_model() -> NotFound:
    return NotFound(
        "The model does not exist, or is not served; GET /v1/models lists those that are.",
        param="model",
        code="model_not_found",
    )
