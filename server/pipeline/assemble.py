"""The wire's messages as a `Prompt`: bounded, sanitised, with images in their places."""

from __future__ import annotations

from collections.abc import Sequence

from reward.types import Image, Message, Prompt, Tool, ToolCall
from server.config import ChatConfig
from server.errors import BadRequest
from server.pipeline.media import MediaIntake
from server.pipeline.sanitise import Sanitiser
from server.wire.chat import ChatMessage, ImagePart, TextPart, ToolDefinition
from server.wire.json_schema import as_text

ROLES = {"developer": "system"}
"""OpenAI's newer name for the same thing."""


def check_conversation(messages: Sequence[ChatMessage], limits: ChatConfig) -> None:
    """Bounds and order; raises `BadRequest`."""
    if len(messages) > limits.max_messages:
        raise BadRequest(f"A conversation may hold {limits.max_messages} messages.", param="messages")
    characters = sum(_characters(message) for message in messages)
    if characters > limits.max_text_chars:
        raise BadRequest(
            f"A conversation may hold {limits.max_text_chars} characters.",
            param="messages",
            code="context_length_exceeded",
        )
    turns = [message.role for message in messages if message.role not in {"system", "developer"}]
    if not turns or turns[0] != "user" or turns[-1] not in {"user", "tool"}:
        raise BadRequest("A conversation begins with a user message, and ends with one or a tool's.", param="messages")
    _check_calls(messages)


def _check_calls(messages: Sequence[ChatMessage]) -> None:
    """Each call is answered at once, by a message of its own."""
    unanswered: set[str] = set()
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in unanswered:
                raise BadRequest("A tool message answers no call of the message before it.", param="messages")
            unanswered.discard(message.tool_call_id)
            continue
        if unanswered:
            raise BadRequest("A tool call is not answered by a tool message behind it.", param="messages")
        unanswered = {call.id for call in message.tool_calls or ()}
    if unanswered:
        raise BadRequest("A tool call is not answered by a tool message behind it.", param="messages")


def _characters(message: ChatMessage) -> int:
    calls = sum(len(call.function.arguments) for call in message.tool_calls or ())
    if isinstance(message.content, str):
        return calls + len(message.content)
    return calls + sum(len(part.text) for part in message.content or () if isinstance(part, TextPart))


async def assemble(
    messages: Sequence[ChatMessage],
    tools: Sequence[ToolDefinition],
    limits: ChatConfig,
    intake: MediaIntake,
    sanitiser: Sanitiser,
) -> Prompt:
    """The prompt; raises `BadRequest`."""
    check_conversation(messages, limits)
    urls = [
        part.image_url.url
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    images = iter(await intake.take(urls))

    def convert(message: ChatMessage) -> Message:
        parts: list[str | Image] = []
        for part in [message.content] if isinstance(message.content, str) else message.content or ():
            match part:
                case str():
                    parts.append(sanitiser.clean(part))
                case TextPart():
                    parts.append(sanitiser.clean(part.text))
                case ImagePart():
                    parts.append(next(images))
        calls = tuple(
            ToolCall(call.id, call.function.name, sanitiser.clean(call.function.arguments))
            for call in message.tool_calls or ()
        )
        return Message(ROLES.get(message.role, message.role), tuple(parts), calls, message.tool_call_id or "")

    described = [
        Tool(
            tool.function.name,
            sanitiser.clean(tool.function.description),
            sanitiser.clean(as_text(tool.function.parameters)),
        )
        for tool in tools
    ]
    return Prompt(tuple(convert(message) for message in messages), tuple(described))
