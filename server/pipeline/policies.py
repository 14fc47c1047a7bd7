"""An alias's configured rules as a safety policy: those of its policy file, then its own. Read once, at start."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from reward.policy import SafetyPolicy, Terms
from reward.ports import Guard, ImageRule, Rule
from reward.rules import (
    ImageLimitRule,
    KnownImageRule,
    LanguageRule,
    LengthRule,
    PatternRule,
    PiiRule,
    RepetitionRule,
    WordsRule,
)
from reward.rules.pii import CLASSES
from reward.types import Action
from server.config import AliasConfig
from server.config.safety import ON_INPUT_ONLY, PolicyFile, RuleConfig
from server.json_endpoint import key_from
from server.moderation import GuardModel
from server.moderation.formats import build_format
from server.pipeline.fingerprint import fingerprint


def build_policy(alias: AliasConfig) -> SafetyPolicy:
    """Raises `ValueError` with one line where the file or a rule is wrong."""
    declared = "" if alias.policy is None else _declared(alias.policy)
    configs = (*read_rules(alias.policy), *alias.rules)
    names = [one.name for one in configs]
    if len(set(names)) != len(names):
        raise ValueError(f"alias {alias.name}: two rules have one name")
    texts = [(one, build_rule(one)) for one in configs if one.kind not in {*ON_INPUT_ONLY, "guard"}]
    guards = [(one, build_guard(one)) for one in configs if one.kind == "guard"]
    images = tuple(build_image_rule(one) for one in configs if one.kind in ON_INPUT_ONLY)
    terms = {one.name: Terms(one.penalty, one.replacement, one.instruction, one.version) for one in configs}
    built: list[Rule | ImageRule | Guard] = [*(rule for _, rule in texts), *images, *(guard for _, guard in guards)]
    content = "\n".join(f"{one.name} {one.version} {one.action} {terms[one.name]}" for one in built)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    policy = SafetyPolicy(
        inputs=tuple(rule for one, rule in texts if one.on != "output"),
        outputs=tuple(rule for one, rule in texts if one.on != "input"),
        images=images,
        input_guards=tuple(guard for one, guard in guards if one.on != "output"),
        output_guards=tuple(guard for one, guard in guards if one.on != "input"),
        terms=terms,
        version=f"{declared}+{digest}" if declared else digest,
    )
    _check_replacements(policy)
    return policy


def read_rules(path: Path | None) -> tuple[RuleConfig, ...]:
    """The rules of a policy file; raises `ValueError`. Files that it names lie beside it."""
    if path is None:
        return ()
    rules = _read(path).rules
    return tuple(one if one.file is None else one.model_copy(update={"file": path.parent / one.file}) for one in rules)


def build_rule(config: RuleConfig) -> Rule:
    """Raises `ValueError` with one line."""
    action = Action(config.action)
    match config.kind:
        case "pattern":
            if not config.pattern:
                raise ValueError(f"rule {config.name}: set pattern")
            return PatternRule(config.name, config.pattern, action)
        case "words":
            return WordsRule(config.name, (*config.words, *_lines(config)), action)
        case "pii":
            return PiiRule(config.name, tuple(CLASSES[one] for one in dict.fromkeys(config.classes)), action)
        case "length":
            return LengthRule(config.name, config.max_chars, action)
        case "repetition":
            return RepetitionRule(config.name, config.max_repeats, action)
        case "language":
            return LanguageRule(config.name, config.scripts, config.max_letters, action)
    raise ValueError(f"rule {config.name}: kind {config.kind} reads no texts")


def build_image_rule(config: RuleConfig) -> ImageRule:
    """Raises `ValueError` with one line."""
    action = Action(config.action)
    if config.kind == "image_limits":
        return ImageLimitRule(config.name, config.max_images, config.max_image_bytes, action)
    listed = [one.lower() for one in _lines(config)]
    wrong = [one for one in listed if len(one) not in {16, 64} or not set(one) <= set("0123456789abcdef")]
    if wrong or not listed:
        raise ValueError(f"rule {config.name}: its file lists sha256 digests (64 digits) and fingerprints (16)")
    return KnownImageRule(
        config.name,
        frozenset(one for one in listed if len(one) == 64),
        tuple(int(one, 16) for one in listed if len(one) == 16),
        max_distance=config.max_distance,
        fingerprint=fingerprint,
        action=action,
    )


def build_guard(config: RuleConfig) -> GuardModel:
    """Raises `ValueError` with one line."""
    if not config.url or not config.model:
        raise ValueError(f"rule {config.name}: set url and model")
    try:
        asked, key = build_format(config.format, config.categories), key_from(config.key_env)
    except ValueError as error:
        raise ValueError(f"rule {config.name}: {error}") from None
    return GuardModel(
        config.name,
        url=config.url,
        model=config.model,
        asked=asked,
        action=Action(config.action),
        key=key,
        timeout_s=config.timeout_s,
        max_concurrent=config.max_concurrent,
    )


def _read(path: Path) -> PolicyFile:
    try:
        return PolicyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "policy"
        raise ValueError(f"{path}: {place}: {first['msg']}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _declared(path: Path) -> str:
    file = _read(path)
    return f"{file.name}-{file.version}"


def _lines(config: RuleConfig) -> tuple[str, ...]:
    if config.file is None:
        return ()
    try:
        lines = config.file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"rule {config.name}: {config.file}: {error}") from None
    return tuple(stripped for line in lines if (stripped := line.partition("#")[0].strip()))


def _check_replacements(policy: SafetyPolicy) -> None:
    """No rule may find anything in what a redaction leaves: each would then be a block."""
    for rules in (policy.inputs, policy.outputs):
        for rule in _redacting(rules):
            replacement = policy.terms[rule.name].replacement
            for other in _redacting(rules):
                if other.check(replacement).action is not Action.ALLOW:
                    raise ValueError(f"rule {other.name} finds something in the replacement of rule {rule.name}")


def _redacting(rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.action is Action.REDACT]
