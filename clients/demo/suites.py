"""Writes the gate suites that an operator of the shapes world would own, as JSON Lines.

One line is one check: `{"id", "messages", "images", "checks"}`. Messages are OpenAI chat messages in which each
image part is `{"type": "image"}`, filled in order from `images` (here `data:` URLs). The suites share no
scene with each other, with the training, with the users or with the evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clients.demo.language import Question, description_question, skill_question
from clients.demo.scenes import OBJECTS, SUITE_SEEDS


def write_suites(directory: Path, descriptions: int, skills: int) -> None:
    """Write `coverage.jsonl` and `hallucination.jsonl` (`descriptions` lines each) and `skills.jsonl`."""
    directory.mkdir(parents=True, exist_ok=True)
    coverage = SUITE_SEEDS[:descriptions]
    hallucination = SUITE_SEEDS[descriptions : 2 * descriptions]
    skill = SUITE_SEEDS[2 * descriptions : 2 * descriptions + skills]
    _write(directory / "coverage.jsonl", (_coverage(description_question(seed)) for seed in coverage))
    _write(directory / "hallucination.jsonl", (_hallucination(description_question(seed)) for seed in hallucination))
    _write(directory / "skills.jsonl", (_skill(skill_question(seed)) for seed in skill))


def _coverage(asked: Question) -> dict[str, Any]:
    return _line("coverage", asked, {"must_mention": [shape.name for shape in asked.scene.shapes]})


def _hallucination(asked: Question) -> dict[str, Any]:
    absent = [name for name in OBJECTS if name not in asked.scene.objects]
    return _line("hallucination", asked, {"must_not_mention": absent})


def _skill(asked: Question) -> dict[str, Any]:
    """Yes and no are right in any sentence that begins with them; a number or a colour stands alone."""
    if asked.kind == "presence":
        return _line("skills", asked, {"regex": rf"(?i)^\W*{re.escape(asked.answer)}\b"})
    return _line("skills", asked, {"exact": asked.answer})


def _line(suite: str, asked: Question, checks: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{suite}-{asked.scene.seed}",
        "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.prompt}]}],
        "images": [asked.scene.data_url()],
        "checks": checks,
    }


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
