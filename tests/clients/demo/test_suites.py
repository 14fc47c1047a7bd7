"""The gate suites of the shapes world."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clients.demo.language import named_objects
from clients.demo.scenes import OBJECTS, SUITE_SEEDS, scene
from clients.demo.suites import write_suites


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_is_well_formed(tmp_path: Path) -> None:
    """Each line has an id of its own, one image for each image part, and checks that a gate knows."""
    write_suites(tmp_path / "suites", descriptions=12, skills=30)
    ids = []
    for name, count in (("coverage", 12), ("hallucination", 12), ("skills", 30)):
        lines = _lines(tmp_path / "suites" / f"{name}.jsonl")
        assert len(lines) == count
        for line in lines:
            assert set(line) == {"id", "messages", "images", "checks"}
            parts = [part for message in line["messages"] for part in message["content"]]
            assert len([part for part in parts if part == {"type": "image"}]) == len(line["images"]) == 1
            assert line["images"][0].startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            assert set(line["checks"]) <= {"must_mention", "must_not_mention", "exact", "regex"}
            ids.append(line["id"])
    assert len(set(ids)) == len(ids)


def test_the_checks_say_the_truth_about_their_picture(tmp_path: Path) -> None:
    """Coverage asks for all that is there; hallucination forbids all that is not."""
    write_suites(tmp_path, descriptions=20, skills=20)
    for line in _lines(tmp_path / "coverage.jsonl"):
        assert set(line["checks"]["must_mention"]) == scene(int(line["id"].split("-")[1])).objects
    for line in _lines(tmp_path / "hallucination.jsonl"):
        view = scene(int(line["id"].split("-")[1]))
        assert line["images"] == [view.data_url()]
        assert set(line["checks"]["must_not_mention"]) == set(OBJECTS) - view.objects
        assert named_objects(", ".join(line["checks"]["must_not_mention"]))
    for line in _lines(tmp_path / "skills.jsonl"):
        assert re.fullmatch(r"yes|no|[0-4]|[a-z]+|\(\?i\)\^\\W\*(yes|no)\\b", next(iter(line["checks"].values())))


def test_the_suites_share_no_scene(tmp_path: Path) -> None:
    """One lucky picture does not count twice, and all come from the suites' own seeds."""
    write_suites(tmp_path, descriptions=10, skills=10)
    seeds = [int(line["id"].split("-")[1]) for path in tmp_path.glob("*.jsonl") for line in _lines(path)]
    assert len(set(seeds)) == len(seeds) == 30
    assert all(seed in SUITE_SEEDS for seed in seeds)
