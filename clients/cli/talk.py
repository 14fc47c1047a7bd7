"""Commands of somebody who asks and judges: one chat with an image, and feedback on its answer."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from typing import Annotated, Any

import openai
import typer
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from clients.cli.session import NO_CONNECTION, REFUSED, Session, command, fail, table
from server.wire.chat import ChatReply
from server.wire.signals import FeedbackRequest

WRONG_ARGUMENTS = 2


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    command(app)(chat)
    command(app)(feedback)


def chat(
    session: Session,
    *,
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", exists=True, dir_okay=False, help="Image file; repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Alias to ask; the server's first if absent.")] = None,
    best_of: Annotated[int | None, typer.Option(min=1, help="Candidates to generate.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    explain: Annotated[bool, typer.Option("--explain", help="Show every candidate with its scores.")] = False,
) -> None:
    """Ask one question, with images if you like."""
    options: dict[str, Any] = {"plumbline": {"explain": explain}}
    if best_of is not None:
        options["best_of"] = best_of
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": _data_url(path)}} for path in image or []]
    try:
        with session.openai() as client:
            reply = client.chat.completions.create(
                model=model or client.models.list().data[0].id,
                messages=[{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}],
                temperature=temperature,
                max_tokens=max_tokens,
                extra_body=options,
            )
    except openai.APIConnectionError as error:
        return fail(f"no reply · {error}", NO_CONNECTION)
    except openai.APIStatusError as error:
        return fail(f"{error.status_code} · {_message(error)}", REFUSED)
    except openai.APIError as error:
        return fail(error.message, REFUSED)
    return _show(session, reply)


def feedback(
    session: Session,
    *,
    completion: Annotated[str, typer.Argument(metavar="COMPLETION", help="The id that `plumbline chat` printed.")],
    up: Annotated[bool, typer.Option("--up", help="The answer is good.")] = False,
    down: Annotated[bool, typer.Option("--down", help="The answer is bad.")] = False,
    correction: Annotated[str | None, typer.Option(help="What the answer should have been.")] = None,
    comment: Annotated[str | None, typer.Option(help="Anything, for people to read.")] = None,
    candidate: Annotated[str | None, typer.Option(help="Which shown candidate; the first choice if absent.")] = None,
    user: Annotated[str | None, typer.Option(help="In whose name.")] = None,
) -> None:
    """Say what an answer was worth."""
    if up and down:
        return fail("--up and --down exclude each other", WRONG_ARGUMENTS)
    said: dict[str, Any] = {"completion_id": completion, "candidate_id": candidate, "user": user}
    said |= {"correction": correction, "comment": comment, "rating": "up" if up else "down" if down else None}
    try:
        request = FeedbackRequest.model_validate({name: value for name, value in said.items() if value is not None})
    except ValidationError as error:
        return fail(error.errors()[0]["msg"].removeprefix("Value error, "), WRONG_ARGUMENTS)
    with session.client() as client:
        reply = client.feedback(request)
    return session.show(reply, lambda: f"kept as {reply.id}" + ("" if reply.trainable else " (not for training)"))


_WITHOUT_TEXT = {"rejected": "(given up half-way)"}


def _show(session: Session, completion: ChatCompletion) -> None:
    if session.as_json:
        return print(completion.model_dump_json(indent=2))
    reply = ChatReply.model_validate(completion.to_dict())
    print(reply.choices[0].message.content)
    about = reply.plumbline
    print(f"\n{reply.id} · {about.adapter} · generation {about.generation} · best of {about.best_of}")
    if about.explanation is None:
        return None
    rows = (
        (
            one.candidate_id,
            one.text or _WITHOUT_TEXT.get(one.finish_reason, "(blocked)"),
            one.scores,
            one.verdicts,
            f"{one.probability:.2f}",
        )
        for one in about.explanation.candidates
    )
    return session.show(
        about.explanation,
        lambda: table(
            ("candidate", "text", "scores", "verdicts", "probability"),
            rows,
            about.explanation.reason if about.explanation else None,
        ),
    )


def _message(error: openai.APIStatusError) -> str:
    """The server's own words, without the client's dressing."""
    body = error.body
    return str(body.get("message", error.message)) if isinstance(body, dict) else error.message


def _data_url(path: Path) -> str:
    mime = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
