"""`POST /v1/feedback` and `POST /v1/preferences`, by key or by an answer's feedback token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request

from server.api.deps import ALLOWED, Role, ServicesDep, check_parameters, find_principal, json_body, now
from server.errors import BadRequest, Forbidden
from server.feedback import Speaker
from server.services import Services
from server.tokens import FeedbackGrant
from server.wire.signals import FeedbackRequest, PreferenceRequest, SignalReply

router = APIRouter()

TOKEN_SCHEME = "plumbline-feedback "  # noqa: S105 - the name of a scheme, not a secret
"""`Authorization: Plumbline-Feedback <token>`: what a browser sends that holds no key."""

MAX_KEY_CHARS = 200


async def find_speaker(
    request: Request, services: ServicesDep, idempotency_key: Annotated[str | None, Header()] = None
) -> tuple[Speaker, FeedbackGrant | None]:
    """Who speaks: a key's holder, or the bearer of one answer's token."""
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY_CHARS:
        raise BadRequest(f"Idempotency-Key has 1 to {MAX_KEY_CHARS} characters.", param="Idempotency-Key")
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(TOKEN_SCHEME):
        grant = services.signer.read(authorization[len(TOKEN_SCHEME) :].strip(), now())
        check_parameters(request)
        annotator = grant.user_hash or f"answer:{grant.completion_id}"
        return Speaker(grant.tenant, annotator, idempotency_key), grant
    principal = await find_principal(request, services)
    if principal.role not in ALLOWED[Role.APP]:
        raise Forbidden("Feedback needs an app key or the answer's feedback token.")
    check_parameters(request)
    return Speaker(principal.tenant, f"key:{principal.key_id}", idempotency_key), None


SpeakerDep = Annotated[tuple[Speaker, FeedbackGrant | None], Depends(find_speaker)]


def _speak_for(
    services: Services, found: tuple[Speaker, FeedbackGrant | None], completion_id: str, user: str | None
) -> Speaker:
    """A token speaks for its own answer and user only; a key may name the user."""
    speaker, grant = found
    annotator = services.signer.user_hash(speaker.tenant, user) if user is not None else speaker.annotator
    if grant is not None and grant.completion_id != completion_id:
        raise Forbidden("This feedback token belongs to another answer.", param="completion_id")
    if grant is not None and annotator != speaker.annotator:
        raise Forbidden("This feedback token belongs to another user.", param="user")
    return Speaker(speaker.tenant, annotator, speaker.idempotency_key)


@router.post("/v1/feedback")
async def give_feedback(
    services: ServicesDep, found: SpeakerDep, body: Annotated[FeedbackRequest, json_body(FeedbackRequest)]
) -> SignalReply:
    """A thumb, a grade, a correction, a comment or labels for one shown answer."""
    speaker = _speak_for(services, found, body.completion_id, body.user)
    return await services.feedback.give_feedback(speaker, body)


@router.post("/v1/preferences")
async def give_preference(
    services: ServicesDep, found: SpeakerDep, body: Annotated[PreferenceRequest, json_body(PreferenceRequest)]
) -> SignalReply:
    """A choice, a ranking or a tie between shown answers of one completion."""
    speaker = _speak_for(services, found, body.completion_id, body.user)
    return await services.feedback.give_preference(speaker, body)
