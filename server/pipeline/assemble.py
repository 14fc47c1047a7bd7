"""The wire's messages as a `Prompt`: bounded, sanitised, with images in their places."""

from __future__ import annotations

from collections.abc import Sequence

from reward.types import Image, Message, Prompt
from server.config import ChatConfig
from server.errors import BadRequest
from server.pipeline.media import MediaIntake
from server.pipeline.sanitise import Sanitiser
from server.wire.chat import ChatMessage, ImagePart, TextPart

ROLES = {"developer": "system"}
"""OpenAI's newer name for the same thing."""


def check_conversation(messages: Sequence[ChatMessage], limits: ChatConfig) -> None:
    """Bounds and order; raises `BadRequest`."""
    if len(messages) > limits.max_messages:
        raise BadRequest(f"A conversation may hold {limits.max_messages} messages.", param="messages")
    characters = sum(
        len(message.content)
        if isinstance(message.content, str)
        else sum(len(part.text) for part in message.content if isinstance(part, TextPart))
        for message in messages
    )
    if characters > limits.max_text_chars:
        raise BadRequest(
            f"A conversation may hold {limits.max_text_chars} characters.",
            param="messages",
            code="context_length_exceeded",
        )
    turns = [message.role for message in messages if message.role not in {"system", "developer"}]
    if not turns or turns[0] != "user" or turns[-1] != "user":
        raise BadRequest("A conversation begins and ends with a user message.", param="messages")


async def assemble(
    messages: Sequence[ChatMessage], limits: ChatConfig, intake: MediaIntake, sanitiser: Sanitiser
) -> Prompt:
    """The prompt; raises `BadRequest`."""
    check_conversation(messages, limits)
    urls = [
        part.image_url.url
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    images = iter(await intake.take(urls))

    def convert(message: ChatMessage) -> Message:
        parts: list[str | Image] = []
        for part in [message.content] if isinstance(message.content, str) else message.content:
            match part:
                case str():
                    parts.append(sanitiser.clean(part))
                case TextPart():
                    parts.append(sanitiser.clean(part.text))
                case ImagePart():
                    parts.append(next(images))
        return Message(ROLES.get(message.role, message.role), tuple(parts))

    return Prompt(tuple(convert(message) for message in messages))
