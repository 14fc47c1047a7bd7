"""What the server makes of groups from elsewhere, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from clients.client import PlumblineError
from server.config import SignalsConfig
from server.engine.port import EngineError
from server.store import audit, groups, schema
from server.store.records import GroupState
from server.wire.exchange import ImportGroup, ImportReply, ImportRequest
from server.wire.training import FeedEntry
from tests.api.conftest import data_url
from tests.exchange.conftest import ALIAS, OpenSite, Site

NewUrl = Callable[[], str]


def group(question: str = "What is this?", *answers: str, image: str | None = None, **changes: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": image}})
    return {
        "messages": [{"role": "user", "content": content}],
        "candidates": list(answers or ("a cup", "a car")),
        "opinions": [{"kind": "pair", "chosen": 0, "rejected": 1}],
        **changes,
    }


def bring(site: Site, *rows: dict[str, Any], source: str = "test") -> ImportReply:
    wanted = [ImportGroup.model_validate(row) for row in rows]
    with site.client() as client:
        return client.import_groups(ImportRequest(alias=ALIAS, source=source, groups=wanted))


def pairs(site: Site) -> list[tuple[str, str, str]]:
    """(chosen, rejected, annotator) of all that may be trained on."""
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["annotator"]) for row in site.export()]


def test_a_bad_group_spoils_no_other(open_site: OpenSite, new_url: NewUrl) -> None:
    """Each group that cannot be kept is named by its place and reason; the others are kept."""
    site = open_site(new_url())
    reply = bring(
        site,
        group("first"),
        group("bad image", image="data:image/png;base64,AAAA"),
        group("too long", "word " * 5000, "short"),
        group("last", image=data_url()),
    )
    assert reply.new == 2
    assert [(one.index, one.code) for one in reply.refused] == [(1, "invalid_image"), (2, "context_length_exceeded")]
    assert len(site.export()) == 2


def test_contents_make_identity(open_site: OpenSite, new_url: NewUrl) -> None:
    """The same prompt and answers are one group whatever their order, also twice in one request."""
    site = open_site(new_url())
    turned = group("q", "a car", "a cup", opinions=[{"kind": "pair", "chosen": 1, "rejected": 0}])
    reply = bring(site, group("q"), group("q"), turned)
    assert (reply.new, reply.known) == (1, 2)
    assert len(site.export()) == 1


def test_opinions_add_up(open_site: OpenSite, new_url: NewUrl) -> None:
    """Another person's opinion of a known group is added; one person's later opinion replaces the earlier."""
    site = open_site(new_url())
    against = [{"kind": "pair", "chosen": 1, "rejected": 0, "user": "bob"}]
    assert bring(site, group("q", user="ann")).new == 1
    assert bring(site, group("q", opinions=against)).changed == 1
    assert {(chosen, rejected) for chosen, rejected, _ in pairs(site)} == {("a cup", "a car"), ("a car", "a cup")}
    assert bring(site, group("q", opinions=[{**against[0], "chosen": 0, "rejected": 1}])).changed == 1
    assert [(chosen, rejected) for chosen, rejected, _ in pairs(site)] == [("a cup", "a car")] * 2
    assert len(site.feed()) == 3


def test_annotators_are_the_imports_own(site: Site) -> None:
    """A named user's opinions carry the hash that erasure and caps go by; nobody's carry the source's."""
    bring(site, group("one", user="ann"), group("two"), group("three"), source="set-a")
    bring(site, group("four"), source="set-b")
    ann = site.services.signer.user_hash("default", "ann")
    annotators = [annotator for _, _, annotator in pairs(site)]
    assert all(one.startswith("import:") for one in annotators)
    assert annotators.count(f"import:{ann}") == 1
    assert len(set(annotators)) == 3
    kept = [site.read(lambda c, row=row: groups.get_group(c, row["group_id"])) for row in site.export()]
    assert sorted(str(one.user_hash) for one in kept) == sorted([ann, "None", "None", "None"])


def test_held_out_prompts_stay(open_site: OpenSite, new_url: NewUrl) -> None:
    """The hold-out takes imported prompts by the same rule: never in the feed, exported only on request and marked."""
    site = open_site(new_url(), signals=SignalsConfig(holdout_share=0.5))
    reply = bring(site, *(group(f"question {number}") for number in range(40)))
    assert 0 < reply.holdout < reply.new == 40
    assert len(site.feed()) == len(site.export()) == 40 - reply.holdout
    held = site.export(split="holdout")
    assert {row["split"] for row in held} == {"holdout"}
    assert len(held) == reply.holdout
    assert len(site.export(split="all")) == 40


def test_what_a_rule_blocks_is_never_a_positive(site: Site) -> None:
    """Safety fails closed for imports too: a forbidden answer loses to a clean one and wins against none."""
    bring(site, group("q", "the forbidden word", "I can't say"))
    (row,) = site.export()
    assert (row["chosen"][0]["content"], row["source"]) == ("I can't say", "safety")


def test_what_was_erased_stays_away(open_site: OpenSite, new_url: NewUrl) -> None:
    """A group that was erased or has expired does not come back by an import."""
    site = open_site(new_url())
    bring(site, group("q"))
    site.write(lambda c: c.execute(update(schema.groups).values(state=GroupState.ERASED)))
    reply = bring(site, group("q"), group("new"))
    assert (reply.gone, reply.new) == (1, 1)
    assert [row["prompt"][0]["content"] for row in site.export()] == ["new"]


def test_erasing_a_user_reaches_what_was_imported(open_site: OpenSite, new_url: NewUrl) -> None:
    """What the user asked for and said goes, and the same file does not bring the groups back."""
    site = open_site(new_url())
    opinion = {"kind": "pair", "chosen": 0, "rejected": 1}
    asked, judged = group("asked", user="ann"), group("judged", opinions=[{**opinion, "user": "ann"}, opinion])
    bring(site, asked, judged)
    assert len(site.export()) == 3
    reply = httpx.delete(f"{site.url}/v1/users/ann/data")
    assert (reply.json()["groups"], reply.json()["signals"]) == (1, 2), reply.text
    assert [row["prompt"][0]["content"] for row in site.export()] == ["judged"]
    assert bring(site, asked).gone == 1


def test_setting_a_user_aside_reaches_what_was_imported(open_site: OpenSite, new_url: NewUrl) -> None:
    """What they said here and elsewhere, and nobody else's word."""
    site = open_site(new_url())
    opinion = {"kind": "pair", "chosen": 0, "rejected": 1}
    bring(site, group("judged", opinions=[{**opinion, "user": "ann"}, {**opinion, "user": "bob"}]))
    site.post("/v1/feedback", {"completion_id": site.chat()["id"], "rating": "up", "user": "ann"})

    def teaching() -> int:
        return sum(len(one.group.pairs) + len(one.group.unpaired) for one in latest(site) if one.group is not None)

    assert teaching() == 3
    assert site.post("/v1/signals/quarantine", {"user": "ann"}) == {"changed": 2}
    assert teaching() == 1
    assert site.post("/v1/signals/quarantine", {"user": "ann", "undo": True}) == {"changed": 2}
    assert teaching() == 3


def latest(site: Site) -> list[FeedEntry]:
    """The newest entry of each group."""
    return list({one.group_id: one for one in site.feed()}.values())


def test_control_tokens_become_text(site: Site) -> None:
    """Neither a prompt nor an answer from elsewhere can end a turn or claim an image."""
    bring(site, group("<|im_end|>", "<|image_pad|> yes", "no"))
    (row,) = site.export()
    texts = row["prompt"][0]["content"] + row["chosen"][0]["content"]
    assert "<|im_end|>" not in texts
    assert "<|image_pad|>" not in texts


def test_an_engine_that_is_away_keeps_nothing(site: Site) -> None:
    """503, and nothing of the request is kept: sent again, all of it is new."""
    site.engine.fail_next(EngineError("away"))
    with pytest.raises(PlumblineError) as caught:
        bring(site, group("one"), group("two"))
    assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")
    assert bring(site, group("one"), group("two")).new == 2


def test_an_import_is_audited_once(site: Site) -> None:
    """Who brought how much from where; an import that changed nothing leaves no trace."""
    bring(site, group("one"), group("two"), source="rlhf-v")
    bring(site, group("one"), source="rlhf-v")
    (entry,) = site.read(lambda c: audit.newest(c, 10, ALIAS))
    assert (entry.action, entry.detail) == ("import", {"source": "rlhf-v", "new": 2, "changed": 0})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"alias": ALIAS, "source": "s", "groups": []}, "invalid_request"),
        ({"alias": ALIAS, "source": "s", "groups": [group("q")] * 257}, "invalid_request"),
        ({"alias": ALIAS, "source": "s", "groups": [group("q", colour=1)]}, "unknown_parameter"),
        ({"alias": ALIAS, "source": "s", "groups": [group("q", "same", "same")]}, "invalid_request"),
        ({"alias": ALIAS, "source": "s", "groups": [group("q", "one")]}, "invalid_request"),
        ({"alias": ALIAS, "source": "s", "groups": [group("q", "nul\0", "b")]}, "invalid_encoding"),
        (
            {"alias": ALIAS, "source": "s", "groups": [{**group("q"), "opinions": [{"kind": "oath"}]}]},
            "invalid_request",
        ),
    ],
)
def test_a_malformed_request_is_refused_whole(site: Site, body: dict[str, Any], code: str) -> None:
    """400 with the field's name; nothing is kept."""
    reply = httpx.post(f"{site.url}/v1/import", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert site.export() == []


def test_unknown_names_are_told_apart(site: Site) -> None:
    """Of an alias, of a group to go on after, of a format."""
    for params, status in (
        ({"alias": "none"}, 404),
        ({"alias": ALIAS, "after": "none"}, 404),
        ({"alias": ALIAS, "format": "csv"}, 400),
        ({}, 400),
    ):
        assert httpx.get(f"{site.url}/v1/preferences", params=params).status_code == status
    reply = httpx.post(f"{site.url}/v1/import", json={"alias": "none", "source": "s", "groups": [group()]})
    assert reply.status_code == 404


def test_only_operators_carry_data(open_site: OpenSite) -> None:
    """Without an operator's key there is neither export nor import."""
    site = open_site(http={"require_keys": True})
    for reply in (
        httpx.get(f"{site.url}/v1/preferences", params={"alias": ALIAS}),
        httpx.post(f"{site.url}/v1/import", json={"alias": ALIAS, "source": "s", "groups": [group()]}),
    ):
        assert reply.status_code == 401


def test_a_tenant_that_may_not_train_may_not_import(open_site: OpenSite) -> None:
    """Data that could never teach is refused at once."""
    site = open_site(train_tenants=("other",))
    with pytest.raises(PlumblineError) as caught:
        bring(site, group())
    assert caught.value.status == 403


def test_a_missing_image_leaves_its_group_out(site: Site) -> None:
    """An export never holds a row without its image; the others come."""
    bring(site, group("one", image=data_url(colour="red")), group("two", image=data_url(colour="blue")))
    first = site.export()[0]
    sha256 = site.read(lambda c: groups.get_group(c, first["group_id"])).media[0].sha256
    site.run(site.services.blobs.delete(sha256))
    assert [row["group_id"] for row in site.export()] == [site.export(images="reference")[1]["group_id"]]
