"""Commands of somebody who asks and judges: one chat with an image, and feedback on its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.table import Table

from clients.cli.session import WRONG_ARGUMENTS, Session, command, console, fail, pairs, table
from clients.sdk import Answer
from clients.sdk.questions import Options
from server.wire.chat import Explanation
from server.wire.signals import FeedbackRequest, PreferenceRequest

RequestT = TypeVar("RequestT", bound=BaseModel)

WITHOUT_TEXT: Final = {"rejected": "(given up half-way)"}


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
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0: always the same answer.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length limit of the answer.")] = 256,
    user: Annotated[str | None, typer.Option(help="In whose name.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every candidate with its scores.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Show a second answer, to choose between them.")] = False,
) -> None:
    """Ask one question, with images if you like; the answer is printed while it comes."""
    options: Options = {"temperature": temperature, "max_tokens": max_tokens, "explain": explain}
    if best_of is not None:
        options["best_of"] = best_of
    if user is not None:
        options["user"] = user
    if compare:
        options["compare"] = True
    with session.plumbline() as client:
        options["model"] = model or client.openai.models.list().data[0].id
        try:
            options["images"] = image or []
            opened = client.stream(prompt, **options)
        except (OSError, ValueError) as error:
            return fail(str(error), WRONG_ARGUMENTS)
        with opened as pieces:
            for piece in pieces:
                if not session.as_json:
                    print(piece, end="", flush=True)
            return _show(session, pieces.answer)


def _show(session: Session, answer: Answer) -> None:
    """What follows the text: further answers, who gave them, why, and how to say what they are worth."""
    if session.as_json:
        return print(answer.reply.model_dump_json(indent=2))
    print()
    for one in answer.candidates[1:]:
        if one.is_shown:
            print(f"\n{one.id}, to compare:\n{one.text}")
    about = answer.about
    print(f"\n{answer.id} · {about.adapter} · generation {about.generation} · best of {about.best_of}")
    if about.degraded:
        print(f"without the scorers {', '.join(about.degraded)}, which failed")
    if about.explanation is not None:
        console().print(_explanation(about.explanation))
    if answer.receipt.feedback_token is not None:
        say = "--prefer .N --over .M" if about.compare else "--up"
        print(f"Say what it is worth: plumbline feedback {answer.id} {say}")
    return None


def _explanation(about: Explanation) -> Table:
    """One row for each candidate; of its id the end, which `plumbline feedback` takes."""
    columns = ("candidate", "text", "scores", "verdicts", "chance")
    made = table(
        columns,
        (
            (
                f".{one.candidate_id.rpartition('.')[2]}",
                one.text or WITHOUT_TEXT.get(one.finish_reason, "(blocked)"),
                pairs(one.scores),
                pairs(one.verdicts),
                f"{one.probability:.2f}",
            )
            for one in about.candidates
        ),
        about.reason,
    )
    made.title_justify = "left"
    return made


CandidateHelp: Final = "Which shown answer: its id, or the end of it as `.1`."


def feedback(
    session: Session,
    *,
    completion: Annotated[str, typer.Argument(metavar="COMPLETION", help="The id that `plumbline chat` printed.")],
    up: Annotated[bool, typer.Option("--up", help="The answer is good.")] = False,
    down: Annotated[bool, typer.Option("--down", help="The answer is bad.")] = False,
    grade: Annotated[float | None, typer.Option(min=-1.0, max=1.0, help="How good, from -1 to 1.")] = None,
    correction: Annotated[str | None, typer.Option(help="What the answer should have been.")] = None,
    comment: Annotated[str | None, typer.Option(help="Anything, for people to read.")] = None,
    candidate: Annotated[
        str | None, typer.Option(metavar="ANSWER", help=f"{CandidateHelp} The first one if absent.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(metavar="ANSWER", help=f"The better one of several. {CandidateHelp}")
    ] = None,
    over: Annotated[
        list[str] | None, typer.Option(metavar="ANSWER", help="What it is better than; repeatable.")
    ] = None,
    tie: Annotated[Literal["good", "bad"] | None, typer.Option(help="Equally good, or equally bad.")] = None,
    user: Annotated[str | None, typer.Option(help="In whose name.")] = None,
) -> None:
    """Say what an answer was worth: a thumb, a grade, a correction; or how several compare."""
    ratings = [said for said, is_said in (("up", up), ("down", down), (grade, grade is not None)) if is_said]
    if len(ratings) > 1:
        return fail("--up, --down and --grade exclude each other", WRONG_ARGUMENTS)

    def whole(part: str | None) -> str | None:
        return f"{completion}{part}" if part is not None and part.startswith(".") else part

    opinion = {
        "rating": ratings[0] if ratings else None,
        "correction": correction,
        "comment": comment,
        "candidate_id": whole(candidate),
    }
    comparison = {"chosen": whole(prefer), "rejected": [whole(one) for one in over] if over else None, "tie": tie}
    compares, judges = any(comparison.values()), any(value is not None for value in opinion.values())
    if compares and judges:
        return fail("say how answers compare, or what one of them is worth: one call for each", WRONG_ARGUMENTS)
    about = {"completion_id": completion, "user": user}
    with session.client() as client:
        if compares:
            reply = client.preference(_understood(PreferenceRequest, about | comparison))
        else:
            reply = client.feedback(_understood(FeedbackRequest, about | opinion))
    return session.show(reply, lambda: f"kept as {reply.id}" + ("" if reply.trainable else " (not for training)"))


def _understood(model: type[RequestT], said: dict[str, Any]) -> RequestT:
    """The request, or the end with what is wrong about it."""
    try:
        return model.model_validate({name: value for name, value in said.items() if value is not None})
    except ValidationError as error:
        fail(error.errors()[0]["msg"].removeprefix("Value error, "), WRONG_ARGUMENTS)
        raise AssertionError("fail has ended the command") from error
