"""Settings of the safety policy: its rules, and what happens where nothing may be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from server.config.base import Seconds, Section

PiiName = Literal["email", "phone", "iban", "credit_card", "ip_address", "us_ssn"]
Script = Literal[
    "latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "devanagari", "bengali", "gurmukhi", "gujarati",
    "tamil", "telugu", "kannada", "malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "georgian", "ethiopic",
    "khmer", "mongolian", "hiragana", "katakana", "hangul", "bopomofo", "cjk",
]  # fmt: skip
GUARD_FORMATS = Literal["llama_guard_3", "llama_guard_4", "shieldgemma"]

SETTINGS_OF: Final[dict[str, frozenset[str]]] = {
    "pattern": frozenset({"pattern"}),
    "words": frozenset({"words", "file"}),
    "pii": frozenset({"classes"}),
    "length": frozenset({"max_chars"}),
    "repetition": frozenset({"max_repeats"}),
    "language": frozenset({"scripts", "max_letters"}),
    "image_limits": frozenset({"max_images", "max_image_bytes"}),
    "known_images": frozenset({"file", "max_distance"}),
    "guard": frozenset({"url", "model", "format", "categories", "key_env", "timeout_s", "max_concurrent"}),
}
"""What each kind of rule reads, beside what all do."""
FINDS_PLACES: Final = frozenset({"pattern", "words", "pii"})
"""Kinds that can redact."""
ON_INPUT_ONLY: Final = frozenset({"image_limits", "known_images"})


class RuleConfig(Section):
    """One safety rule."""

    name: str = Field(min_length=1, max_length=64)
    """Shown in verdicts and metrics."""
    kind: Literal[
        "pattern", "words", "pii", "length", "repetition", "language", "image_limits", "known_images", "guard"
    ]
    """Which rule."""
    version: str = Field("", max_length=32)
    """As you count your policy's changes; the rule's own version, a digest of what it looks for, goes behind it."""
    action: Literal["block", "redact", "penalise", "flag", "critique_and_revise"] = "block"
    """What happens to a text to which it applies."""
    on: Literal["output", "input", "both"] = "output"
    """Which texts it reads: answers, what users and tools say, or both. Rules about images read the input."""
    penalty: float = Field(0.0, ge=0)
    """`penalise`: what is taken off the candidate's total."""
    replacement: str = Field("[removed]", max_length=64)
    """`redact`: what stands in the place of what was found."""
    instruction: str = Field("", max_length=1000)
    """What the model is told to keep to when it answers again because of this rule. Without one it is told the rule's
    name and what kind of thing was found."""
    pattern: str = ""
    """`pattern`: a regular expression in RE2 syntax (linear time), searched without regard to case. While an answer
    streams, its end is held back as far as the pattern can reach; with an unbounded repetition in its middle (`.*`;
    better `.{0,40}`) that is the whole answer. To `redact`, its longest match must be bounded."""
    words: tuple[str, ...] = ()
    """`words`: words and phrases."""
    file: Path | None = None
    """`words`: further ones, one a line. `known_images`: one sha256 (64 digits) or fingerprint (16) a line. What
    follows a # is a comment."""
    classes: tuple[PiiName, ...] = ("email", "phone", "iban", "credit_card")
    """`pii`: what counts as personal."""
    max_chars: int = Field(0, ge=0)
    """`length`: longest allowed text."""
    max_repeats: int = Field(4, ge=2)
    """`repetition`: how often one sentence may occur."""
    scripts: tuple[Script, ...] = ("latin",)
    """`language`: alphabets that may be used; it tells no languages apart."""
    max_letters: int = Field(20, ge=0)
    """`language`: letters of other alphabets that are let pass."""
    max_images: int = Field(0, ge=0)
    """`image_limits`: images in one conversation; 0: any number."""
    max_image_bytes: int = Field(0, ge=0)
    """`image_limits`: size of each; 0: any."""
    max_distance: int = Field(6, ge=0, le=16)
    """`known_images`: bits (of 64) in which a fingerprint may differ from a listed one."""
    url: str = Field("", pattern=r"^$|^https?://[^\s?#]+$")
    """`guard`: base URL of an OpenAI API, up to and with `/v1`."""
    model: str = ""
    """`guard`: the model's name there."""
    format: GUARD_FORMATS = "llama_guard_3"
    """`guard`: how the model is asked, and its reply read."""
    categories: tuple[str, ...] = ()
    """`guard`: what counts, in the model's own names (`S1` ..., or `dangerous`, `harassment`, `hate`, `sexual`); empty:
    all of them."""
    key_env: str = Field("", pattern=r"^[A-Za-z0-9_]*$")
    """`guard`: name of the environment variable that holds the API key, where the endpoint wants one."""
    timeout_s: Seconds = 10.0
    """`guard`: how long one question may take, waiting for its turn included."""
    max_concurrent: int = Field(16, ge=1)
    """`guard`: questions at once."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        own = SETTINGS_OF[self.kind]
        foreign = sorted(self.model_fields_set & (frozenset().union(*SETTINGS_OF.values()) - own))
        if foreign:
            raise ValueError(f"rule {self.name}: {foreign[0]} is no setting of kind {self.kind}")
        if self.action != "penalise" and self.penalty:
            raise ValueError(f"rule {self.name}: penalty goes with action penalise")
        if self.action == "penalise" and not self.penalty:
            raise ValueError(f"rule {self.name}: action penalise needs a penalty")
        if self.action == "redact" and self.kind not in FINDS_PLACES:
            raise ValueError(f"rule {self.name}: kind {self.kind} finds no places that could be redacted")
        return self

    @model_validator(mode="after")
    def _fits_its_side(self) -> Self:
        reads_input = self.on != "output" or self.kind in ON_INPUT_ONLY
        if self.kind in ON_INPUT_ONLY and "on" in self.model_fields_set and self.on != "input":
            raise ValueError(f"rule {self.name}: kind {self.kind} reads the input (on = input)")
        if reads_input and self.action in {"penalise", "critique_and_revise"}:
            raise ValueError(f"rule {self.name}: action {self.action} is for answers (on = output)")
        return self


class PolicyFile(Section):
    """A policy that several aliases share."""

    name: str = Field(min_length=1, max_length=64)
    """Shown in the log and metrics."""
    version: str = Field(min_length=1, max_length=32)
    """As you count its changes; a digest of the content goes behind it."""
    rules: tuple[RuleConfig, ...] = ()
    """Its rules."""


class SecondWaveConfig(Section):
    """What is tried, once, where every candidate is forbidden, before the refusal is shown."""

    enabled: bool = True
    """Generate once more, with the reasons as a hidden instruction."""
    candidates: int = Field(0, ge=0, le=64)
    """How many; 0: as many as the request's `best_of`."""
    prompt: str = Field(
        "Your answer must keep to these rules, and must not mention them: {reasons}", min_length=1, max_length=2000
    )
    """The hidden instruction; {reasons} becomes the instructions of the rules that forbade the candidates."""
    revision_prompt: str = Field(
        "Rewrite your last answer so that it keeps to this, changes nothing else and does not mention it: {reasons} "
        "Give the rewritten answer alone.",
        min_length=1,
        max_length=2000,
    )
    """What asks for the one revision of `critique_and_revise`."""
