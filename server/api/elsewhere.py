"""What apps of other APIs look for in vain, and what is offered instead."""

from __future__ import annotations

_CHAT = "use POST /v1/chat/completions"
_NOT_OFFERED = {
    "/v1/responses": f"The Responses API is not offered: {_CHAT}.",
    "/v1/conversations": f"Conversations are not kept here: {_CHAT} with all messages.",
    "/v1/completions": f"Completions of bare text are not offered: {_CHAT}.",
    "/v1/messages": f"Anthropic's Messages API is not offered: {_CHAT}.",
    "/v1/assistants": f"Assistants are not offered: {_CHAT}.",
    "/v1/threads": f"Threads are not offered: {_CHAT} with all messages.",
    "/v1/files": "Files are not offered: send images in the messages of POST /v1/chat/completions, as image_url.",
    "/v1/uploads": "Uploads are not offered: send images in the messages of POST /v1/chat/completions, as image_url.",
    "/v1/batches": "Batches are not offered: send the requests to POST /v1/chat/completions, many at once.",
    "/v1/fine_tuning": "Fine-tuning jobs are not offered: POST /v1/feedback and /v1/preferences teach the model.",
    "/v1/evals": "Evals are not offered: GET /v1/adapters/{id}/report tells how an adapter did.",
    "/v1/embeddings": "Embeddings are not offered; this service answers POST /v1/chat/completions.",
    "/v1/moderations": "Moderations are not offered: the alias's rules judge every answer.",
    "/v1/images": "Making images is not offered; POST /v1/chat/completions answers questions about images.",
    "/v1/audio": "Audio is not offered; POST /v1/chat/completions takes text and images.",
    "/v1/videos": "Videos are not offered; POST /v1/chat/completions takes text and images.",
    "/v1/realtime": "Realtime is not offered: POST /v1/chat/completions streams with stream: true.",
    "/v1/vector_stores": "Vector stores are not offered; this service answers POST /v1/chat/completions.",
    "/v1/chat/completions": "Stored completions cannot be read back; GET /v1/training/feed tells learners of them.",
}
"""By the path's beginning."""


def offered_instead(path: str) -> str | None:
    """A sentence for whoever asked for a path that is not there; None: it is no path of a known API."""
    return next((told for start, told in _NOT_OFFERED.items() if path == start or path.startswith(start + "/")), None)
