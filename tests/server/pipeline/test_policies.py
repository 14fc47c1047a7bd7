"""A policy as data: read whole or not at all, with a version that follows its content."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reward.types import Action
from server.config import AliasConfig, RuleConfig
from server.pipeline.policies import build_policy

POLICY = """
name = "house"
version = "3"

[[rules]]
name = "names"
kind = "words"
file = "names.txt"
action = "redact"
on = "both"
replacement = "[name]"

[[rules]]
name = "tone"
kind = "words"
words = ["obviously"]
action = "penalise"
penalty = 0.5
version = "b"
"""


def alias(
    directory: Path, text: str = POLICY, names: str = "Ann # the boss\n\nBob Smith\n", **more: Any
) -> AliasConfig:
    (directory / "policy.toml").write_text(text)
    (directory / "names.txt").write_text(names)
    return AliasConfig(policy=directory / "policy.toml", **more)


def test_a_file_comes_before_the_aliases_own_rules(tmp_path: Path) -> None:
    """Its lists lie beside it."""
    own = RuleConfig(name="secret", kind="pattern", pattern="code")
    policy = build_policy(alias(tmp_path, rules=(own,)))
    assert [rule.name for rule in policy.outputs] == ["names", "tone", "secret"]
    assert [rule.name for rule in policy.inputs] == ["names"]
    reading = policy.read("Obviously bob smith and Ann.")
    assert reading.shown_text == "Obviously [name] and [name]."
    assert reading.penalty == 0.5
    assert [one.action for one in reading.verdicts] == [Action.REDACT, Action.PENALISE, Action.ALLOW]
    assert reading.verdicts[1].version.startswith("b+")


def test_the_version_is_declared_and_of_the_content(tmp_path: Path) -> None:
    """What changes a verdict changes it, also in a file that the policy names; order of reading does not."""
    first = build_policy(alias(tmp_path)).version
    assert first.startswith("house-3+")
    assert build_policy(alias(tmp_path)).version == first
    changes = [("0.5", "0.6"), ("[name]", "[n]"), ('"3"', '"4"'), ('"b"', '"c"'), ('"redact"', '"flag"')]
    others = [build_policy(alias(tmp_path, POLICY.replace(*change))).version for change in changes]
    others.append(build_policy(alias(tmp_path, names="Ann\n")).version)
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace('version = "3"', ""), "version"),
        (POLICY.replace('name = "tone"', 'name = "names"'), "two rules have one name"),
        (POLICY.replace("names.txt", "none.txt"), "none.txt"),
        (POLICY.replace("penalty = 0.5", "penalty = 0.5\nspeed = 3"), "speed"),
        (POLICY.replace("[name]", "[Ann]"), "replacement"),
        ("name = ", "policy.toml"),
    ],
)
def test_a_wrong_file_stops_the_start_with_one_line(tmp_path: Path, text: str, said: str) -> None:
    """Nothing of it is applied."""
    with pytest.raises(ValueError, match=said) as caught:
        build_policy(alias(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "length", "action": "redact"},
        {"kind": "length", "words": ["a"]},
        {"kind": "length", "penalty": 1.0},
        {"kind": "length", "action": "penalise"},
        {"kind": "length", "action": "penalise", "penalty": 1.0, "on": "both"},
        {"kind": "length", "action": "critique_and_revise", "on": "input"},
        {"kind": "image_limits", "on": "output"},
        {"kind": "pii", "classes": ["shoe_size"]},
        {"kind": "language", "scripts": ["klingon"]},
        {"kind": "guard", "url": "ftp://guard/v1"},
        {"kind": "magic"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    """Rather than left out without a word."""
    with pytest.raises(ValidationError):
        RuleConfig(name="r", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "pattern"},
        {"kind": "words"},
        {"kind": "pattern", "pattern": "(a"},
        {"kind": "pattern", "pattern": "a.*b", "action": "redact"},
        {"kind": "known_images"},
        {"kind": "guard"},
        {"kind": "guard", "url": "http://guard/v1", "model": "m", "categories": ["S99"]},
        {"kind": "guard", "url": "http://guard/v1", "model": "m", "key_env": "NO_SUCH_VARIABLE"},
    ],
)
def test_a_rule_that_cannot_be_built_is_named(settings: dict[str, Any]) -> None:
    """At the start, not at the first request."""
    with pytest.raises(ValueError, match="rule r"):
        build_policy(AliasConfig(rules=(RuleConfig(name="r", **settings),)))


def test_the_examples_of_the_page_are_good(tmp_path: Path) -> None:
    """`docs/safety.md` can be pasted."""
    page = (Path(__file__).parents[3] / "docs" / "safety.md").read_text()
    main, shared = (block.partition("```")[0] for block in page.split("```toml")[1:])
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "house.toml").write_text(shared)
    (tmp_path / "policies" / "unfriendly.txt").write_text("stupid\n")
    (tmp_path / "policies" / "pictures.txt").write_text("f0f0f0f0f0f0f0f0 # rings\n")
    (settings,) = tomllib.loads(main)["aliases"]
    alias = AliasConfig.model_validate(settings | {"policy": tmp_path / settings["policy"]})
    policy = build_policy(alias)
    assert policy.read("Mail bob@example.org").shown_text == "Mail [personal data]"
    assert policy.blocks_output("You stupid!")
    assert policy.blocks_output("The access code is 12.")
    assert policy.output_guard_names == {"guard"}
