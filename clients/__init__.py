"""Clients of a Plumbline server: the Python SDK, the `plumbline` command, the demo.

They see of the server only the models of its API (`server.wire`). Chat itself goes through the stock
`openai` client; `clients.client.PlumblineClient` is everything else.
"""

from __future__ import annotations

from clients.client import PlumblineClient, PlumblineError, UnreadableEntry

__all__ = ["PlumblineClient", "PlumblineError", "UnreadableEntry"]
