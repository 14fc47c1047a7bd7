"""Clients of a Plumbline server: the Python SDK, the `plumbline` command, the demo.

They see of the server only the models of its API (`server.wire`). `Plumbline` and `AsyncPlumbline` are for apps: chat
and what is said about answers, over the stock `openai` client. `PlumblineClient` is everything else: operators and
learners.
"""

from __future__ import annotations

from clients.client import PlumblineClient, PlumblineError, UnreadableEntry
from clients.sdk import Answer, AsyncAnswer, AsyncPlumbline, Plumbline, Receipt

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncPlumbline",
    "Plumbline",
    "PlumblineClient",
    "PlumblineError",
    "Receipt",
    "UnreadableEntry",
]
