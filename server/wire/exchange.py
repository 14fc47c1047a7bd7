"""Groups and opinions that come from elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from server.wire.base import Comment, Id, Label, NoNul, Reply, UserName, Wire
from server.wire.chat import ChatMessage
from server.wire.training import PairSource


class ImportPair(Wire):
    """One candidate is better than another; both by their place in the group's list."""

    kind: Literal["pair"]
    chosen: int = Field(ge=0)
    rejected: int = Field(ge=0)
    source: PairSource = "choice"
    weight: float = Field(1.0, gt=0, le=100)
    user: UserName | None = None
    """Whose opinion; absent: the group's user, and without one the import itself."""


class ImportRating(Wire):
    """One candidate is good (up to 1) or bad (down to -1)."""

    kind: Literal["rating"]
    candidate: int = Field(ge=0)
    rating: float = Field(ge=-1, le=1)
    comment: Comment | None = None
    labels: Annotated[list[Label], Field(max_length=16)] = []
    user: UserName | None = None


class ImportGroup(Wire):
    """One prompt, its answers, and what was said about them. Images go in the messages, as `data:` URLs."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    candidates: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200_000), NoNul]],
        Field(min_length=1, max_length=64),
    ]
    opinions: Annotated[
        list[Annotated[ImportPair | ImportRating, Field(discriminator="kind")]], Field(min_length=1, max_length=4096)
    ]
    user: UserName | None = None
    """Who asked: erasing that user's data erases the group."""

    @field_validator("messages")
    @classmethod
    def _nobody_calls_tools(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        if any(one.role == "tool" or one.tool_calls for one in value):
            raise ValueError("conversations with tool calls cannot be imported")
        return value

    @model_validator(mode="after")
    def _opinions_are_about_candidates(self) -> Self:
        for opinion in self.opinions:
            named = [opinion.candidate] if isinstance(opinion, ImportRating) else [opinion.chosen, opinion.rejected]
            if max(named) >= len(self.candidates):
                raise ValueError("an opinion names a candidate that is not there")
            if len({self.candidates[one] for one in named}) != len(named):
                raise ValueError("chosen and rejected are the same answer")
        return self


class ImportRequest(Wire):
    """Groups from elsewhere, to be learned from like the alias's own. Sending one twice keeps it once."""

    alias: Id
    source: Label
    """Where they come from; the annotator of opinions that name nobody."""
    groups: Annotated[list[ImportGroup], Field(min_length=1, max_length=256)]


class ImportRefusal(Reply):
    """A group that cannot be kept, by its place in the request; the others were."""

    index: int
    message: str
    code: str


class ImportReply(Reply):
    """What became of the groups: `new + changed + known + gone + len(refused)` of them were sent."""

    new: int
    changed: int
    """Kept before, with opinions that are new."""
    known: int
    gone: int
    """Kept once, then erased or expired: they stay away."""
    holdout: int
    """Of those new, kept for the gate and never trained on."""
    refused: list[ImportRefusal] = []
