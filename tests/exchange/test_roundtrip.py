"""What is exported comes in again as what it was, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from clients.cli import app
from clients.client import PlumblineClient
from learner.examples import Limits, Wanted, prepare
from server.engine.fake import IMAGE_PAD
from server.wire.exchange import ImportGroup, ImportRequest
from tests.api.conftest import data_url
from tests.exchange.conftest import OpenSite, Site

FORBIDDEN = "the forbidden word"


def teach(site: Site) -> None:
    """Every kind of signal that makes a pair or an unpaired example, by several people, about two images."""
    for colour, user in (("red", "ann"), ("blue", "bob")):
        image = {"type": "image_url", "image_url": {"url": data_url(colour=colour)}}
        content = [{"type": "text", "text": "Look:"}, image, {"type": "text", "text": "What is\u2028this?"}]
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
        reply = site.chat(messages=messages, best_of=4, plumbline={"compare": True}, user=user)
        first, second = reply["plumbline"]["compare"]
        about = {"completion_id": reply["id"], "user": user}
        site.post("/v1/preferences", {**about, "chosen": second, "rejected": first})
        site.post("/v1/feedback", {**about, "candidate_id": first, "correction": f"a {colour} square"})
        site.post("/v1/feedback", {**about, "candidate_id": first, "rating": "down"})
        site.post("/v1/feedback", {**about, "candidate_id": second, "rating": 0.5})
    site.engine.script = lambda model, prompt, index: FORBIDDEN if index == 1 else None
    site.chat(messages=[{"role": "user", "content": "No image here."}], best_of=3)
    site.engine.script = None


def learned(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows teach, without whose ids they carry."""
    names = ("prompt", "images", "chosen", "rejected", "completion", "label", "source", "weight", "split")
    return sorted(repr({name: row[name] for name in names if name in row}) for row in rows)


def carry(source: Site, target: Site, directory: Path, kind: str) -> None:
    """Through the command line, as an operator would."""
    file = directory / f"{kind}.jsonl"
    done = CliRunner().invoke(app, ["export", str(file), "--kind", kind, "--url", source.url])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["import", str(file), "--format", "trl", "--url", target.url])
    assert done.exit_code == 0, done.output


def test_a_round_trip_gives_the_same_pairs(open_site: OpenSite, new_url: Callable[[], str], tmp_path: Path) -> None:
    """Prompts, images, answers, sources and weights of every pair and thumb survive export and import."""
    source, target = open_site(new_url()), open_site(new_url())
    teach(source)
    pairs, unpaired = source.export(), source.export(kind="unpaired")
    assert {row["source"] for row in pairs} >= {"choice", "correction", "safety"}
    assert len(unpaired) == 4
    carry(source, target, tmp_path, "pairs")
    assert learned(target.export()) == learned(pairs)
    carry(source, target, tmp_path, "unpaired")
    assert learned(target.export(kind="unpaired")) == learned(unpaired)


def test_importing_twice_changes_nothing(open_site: OpenSite, new_url: Callable[[], str], tmp_path: Path) -> None:
    """Ids follow from contents: the second import finds every row known and the feed does not grow."""
    source, target = open_site(new_url()), open_site(new_url())
    teach(source)
    carry(source, target, tmp_path, "pairs")
    before, entries = learned(target.export()), len(target.feed())
    encoded = len(target.engine.calls)
    carry(source, target, tmp_path, "pairs")
    assert (learned(target.export()), len(target.feed())) == (before, entries)
    assert [one.method for one in target.engine.calls[encoded:]] == []


def test_an_export_goes_on_after_any_group(open_site: OpenSite, new_url: Callable[[], str]) -> None:
    """`after` gives exactly the rows of the later groups, from every group on, across pages."""
    site = open_site(new_url())
    groups = [
        {
            "messages": [{"role": "user", "content": f"question {number}"}],
            "candidates": ["yes"],
            "opinions": [{"kind": "rating", "candidate": 0, "rating": 1.0}],
        }
        for number in range(120)
    ]
    with site.client() as client:
        wanted = [ImportGroup.model_validate(one) for one in groups]
        assert client.import_groups(ImportRequest(alias="default", source="test", groups=wanted)).new == 120
    rows = site.export(kind="unpaired")
    ids = [row["group_id"] for row in rows]
    assert len(set(ids)) == 120
    for place in (0, 30, 49, 50, 99, 100, 119):
        assert site.export(kind="unpaired", after=ids[place]) == rows[place + 1 :]


def test_what_is_imported_reaches_the_learner(open_site: OpenSite, new_url: Callable[[], str], tmp_path: Path) -> None:
    """An imported group is in the feed, with token ids, without log-probabilities, and usable for training."""
    source, target = open_site(new_url()), open_site(new_url())
    teach(source)
    carry(source, target, tmp_path, "pairs")
    groups = [entry.group for entry in target.feed() if entry.group is not None]
    assert groups
    limits = Limits(target.services.base_digest, vocabulary=2**32, max_positions=4096, image_token_id=IMAGE_PAD)
    for group in groups:
        assert not group.on_policy_sampling
        assert {one.adapter for one in group.candidates} == {"import"}
        assert all(one.token_ids and not one.logprobs for one in group.candidates)
        prepared = prepare(group, limits, Wanted())
        assert prepared.example is not None, prepared.skipped
        assert not prepared.skipped


def test_images_as_files_come_in_again(open_site: OpenSite, tmp_path: Path) -> None:
    """`--images files` puts each image beside the rows once, under its content's name."""
    source, target = open_site(), open_site()
    teach(source)
    file = tmp_path / "out" / "pairs.jsonl"
    done = CliRunner().invoke(app, ["export", str(file), "--images", "files", "--url", source.url])
    assert done.exit_code == 0, done.output
    assert sorted(path.suffix for path in (file.parent / "images").iterdir()) == [".png", ".png"]
    done = CliRunner().invoke(app, ["import", str(file), "--format", "trl", "--url", target.url])
    assert done.exit_code == 0, done.output
    assert learned(target.export()) == learned(source.export())


def test_one_alias_has_one_form_of_contents(site: Site) -> None:
    """Without any image contents are plain texts and there is no `images`: a text model can train on it."""
    reply = site.chat(messages=[{"role": "user", "content": "Hello"}], best_of=1)
    site.post("/v1/feedback", {"completion_id": reply["id"], "rating": "up"})
    (row,) = site.export(kind="unpaired")
    assert row["prompt"] == [{"role": "user", "content": "Hello"}]
    assert "images" not in row
    reply = site.chat(best_of=1)
    site.post("/v1/feedback", {"completion_id": reply["id"], "rating": "up"})
    plain, pictured = site.export(kind="unpaired")
    assert plain["prompt"] == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert (plain["images"], len(pictured["images"])) == ([], 1)
    assert [part["type"] for part in pictured["prompt"][0]["content"]] == ["image", "text"]


def test_a_broken_off_export_goes_on(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    """Run again, the command keeps whole groups, fetches the rest, and the file is that of one go."""
    teach(site)
    whole = site.export()
    original = PlumblineClient.export_preferences
    asked: list[Any] = []

    def breaks(self: PlumblineClient, alias: str, **options: Any) -> Any:
        asked.append(options["after"])
        for count, row in enumerate(original(self, alias, **options)):
            if len(asked) == 1 and count == 4:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(PlumblineClient, "export_preferences", breaks)
    file = tmp_path / "pairs.jsonl"
    command = ["export", str(file), "--url", site.url]
    assert CliRunner().invoke(app, command).exit_code != 0
    assert not file.exists()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert asked == [None, whole[0]["group_id"]]
    assert [json.loads(line) for line in file.read_text().splitlines()] == whole
    assert [path.name for path in tmp_path.glob("*pairs*")] == ["pairs.jsonl"]
