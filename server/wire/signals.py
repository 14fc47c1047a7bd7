"""What people say about answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, StringConstraints, ValidationInfo, field_validator, model_validator

from server.wire.base import Comment, Id, Label, NoNul, Reply, UserName, Wire


def _rating(value: Any) -> Any:
    """One message in place of one for each alternative."""
    if isinstance(value, str) and value in {"up", "down"}:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError('a rating is "up", "down", or a number from -1 to 1')


class TensorZeroFeedback(Wire):
    """One person's opinion in TensorZero's words (https://www.tensorzero.com/docs/gateway/api-reference/feedback).

    `comment` is a comment and `demonstration` a correction. Every other metric is a rating: true is up, false is down,
    a number is a grade. Its name becomes a label, as do the tags (`key=value`).
    """

    inference_id: Id
    metric_name: Label
    value: bool | float | str
    tags: Annotated[dict[Label, str], Field(max_length=15)] = {}
    user: UserName | None = None
    """TensorZero has no name for it."""
    episode_id: None = None
    dryrun: Literal[False] | None = None

    @field_validator("value", mode="plain")
    @classmethod
    def _fits_the_metric(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("metric_name")
        if name in {"comment", "demonstration"}:
            if not isinstance(value, str):
                raise ValueError(f"{name} takes a text")
        elif not isinstance(value, bool | int | float) or not -1 <= value <= 1:
            raise ValueError("a metric takes true, false, or a grade from -1 to 1")
        return value

    def translated(self) -> dict[str, Any]:
        """The same in the field names of `FeedbackRequest`."""
        said: dict[str, Any] = {"completion_id": self.inference_id, "user": self.user}
        labels = [f"{name}={value}" for name, value in self.tags.items()]
        match self.metric_name:
            case "comment":
                said["comment"] = self.value
            case "demonstration":
                said["correction"] = self.value
            case name:
                said["rating"] = ("down", "up")[self.value] if isinstance(self.value, bool) else self.value
                labels.insert(0, name)
        return {**said, "labels": labels}


class FeedbackRequest(Wire):
    """One person's opinion of one answer. TensorZero's field names are understood as well (`TensorZeroFeedback`)."""

    completion_id: Id
    candidate_id: Id | None = None
    """Which shown candidate; absent: the first choice."""
    rating: Annotated[Literal["up", "down"] | float, PlainValidator(_rating)] | None = None
    user: UserName | None = None
    comment: Comment | None = None
    correction: Annotated[str, StringConstraints(min_length=1, max_length=20_000), NoNul] | None = None
    labels: Annotated[list[Label], Field(max_length=16)] = []

    @model_validator(mode="before")
    @classmethod
    def _in_either_vocabulary(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not {"inference_id", "metric_name", "value", "tags"} & data.keys():
            return data
        if (cls.model_fields.keys() - {"user"}) & data.keys():
            raise ValueError("use Plumbline's field names or TensorZero's, not both in one request")
        return TensorZeroFeedback.model_validate(data).translated()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rating is None and self.correction is None and self.comment is None and not self.labels:
            raise ValueError("feedback needs a rating, a correction, a comment or labels")
        return self


class PreferenceRequest(Wire):
    """One person's comparison of shown candidates of one completion: a choice, a ranking or a tie."""

    completion_id: Id
    chosen: Id | None = None
    rejected: Annotated[list[Id], Field(min_length=1, max_length=64)] | None = None
    ranking: Annotated[list[Id], Field(min_length=2, max_length=64)] | None = None
    """Best first."""
    tie: Literal["good", "bad"] | None = None
    user: UserName | None = None

    @field_validator("rejected", mode="before")
    @classmethod
    def _rejected_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected come together")
        if [self.chosen is not None, self.ranking is not None, self.tie is not None].count(True) != 1:
            raise ValueError("give either chosen and rejected, or ranking, or tie")
        if self.rejected is not None and self.chosen in self.rejected:
            raise ValueError("chosen and rejected must differ")
        if self.ranking is not None and len(set(self.ranking)) != len(self.ranking):
            raise ValueError("ranking names a candidate twice")
        return self


class SignalReply(Reply):
    """The stored signal. `trainable` is False when no training example follows from it: a tie, a comment or a label; a
    correction that the alias's rules block; praise of a refusal; an answer that was broken off, that is held out, or
    whose tenant may not train the alias.
    """

    id: str
    completion_id: str
    trainable: bool
