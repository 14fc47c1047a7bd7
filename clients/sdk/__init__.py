"""The Python SDK for apps: ask, show, and say what the answer was worth. Thin over the stock `openai` client.

    client = Plumbline()
    answer = client.chat("What is in this image?", images=["cup.png"], best_of=4)
    print(answer.text)
    answer.thumbs_up()

`Plumbline` and `AsyncPlumbline` have the same methods; those of the latter are awaited. What they say and understand
is built in one place (`questions`, `opinions`, `answers`: no I/O there); the clients only send it. Failures are the
`openai` package's own (`openai.APIStatusError` and its kin). Operators' calls are `clients.PlumblineClient`'s.
"""

from __future__ import annotations

from clients.sdk.answers import Answer, AsyncAnswer, Candidate
from clients.sdk.client import AsyncPlumbline, Plumbline
from clients.sdk.images import ImageLike
from clients.sdk.opinions import Opinions, Receipt
from clients.sdk.streams import AnswerStream, AsyncAnswerStream

__all__ = [
    "Answer",
    "AnswerStream",
    "AsyncAnswer",
    "AsyncAnswerStream",
    "AsyncPlumbline",
    "Candidate",
    "ImageLike",
    "Opinions",
    "Plumbline",
    "Receipt",
]
