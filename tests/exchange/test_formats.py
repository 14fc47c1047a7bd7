"""Each format's rows as its publishers write them, and what becomes of rows that are not what they should be."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.exchange.formats import FORMATS, Format
from clients.exchange.groups import Better, ImportedGroup, Picture, Rated, Turn, UnreadableRow
from clients.exchange.sending import to_wire

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
CUP = Picture("cup.png")


def asked(*parts: str | Picture) -> tuple[Turn, ...]:
    return (Turn("user", parts),)


RLHF_V = {
    "ds_name": "RLHF-V",
    "image": {"bytes": PNG, "path": "llava1.5-raven/0001.jpg"},
    "text": json.dumps({"question": "What is this?", "chosen": "A cup.", "rejected": "A car."}),
    "origin_dataset": "LCS-558K",
    "origin_split": "{}",
    "idx": 0,
    "image_path": "llava1.5-raven/0001.jpg",
}
RLAIF_V = {"image": {"bytes": None, "path": "cup.png"}, "question": "What?", "chosen": "A cup.", "rejected": "A car."}
MM_RLHF = {
    "image": "short/0/cup.png",
    "prompt": "<image>\nWhat is this?",
    "chosen": "A cup.",
    "rejected": "A car.",
    "chosen_score": 5,
}
MM_RLHF_SCORES = {
    "id": 7,
    "image": "short/0/cup.png",
    "question": "What is this?",
    "models_output": ["A cup.", "A car.", "A mug.", "", "A dog."],
    "faithfulness": [5, 1, 4, 5, None],
    "helpfulness": [4, 2, 5, 5, None],
    "ethical": [None, None, None, 5, None],
}
COMPLETIONS = [
    {
        "model": name,
        "response": text,
        "annotations": {
            "Helpfulness": {"Rating": first, "Rationale": "…"},
            "Visual Faithfulness": {"Rating": second, "Rationale": "…"},
            "Ethical Considerations": {"Rating": "N/A", "Rationale": "…"},
        },
    }
    for name, text, first, second in [("a", "cup", "5", "4"), ("b", "car", "1", "2"), ("c", "mug", "4", "5")]
]
VLFEEDBACK = {
    "id": "svit-1",
    "prompt": "What?",
    "models": ["a", "b", "c"],
    "completions": COMPLETIONS,
    "img_path": "cup.png",
}
VLFEEDBACK_COLUMNS = {
    **VLFEEDBACK,
    "completions": {name: [one[name] for one in COMPLETIONS] for name in ("model", "response", "annotations")},
}
PREFERENCE_10K = {
    "id": "000001",
    "image": "cup.png",
    "conversations": [
        {"from": "human", "value": "What is this?\n<image>"},
        {"from": "gpt", "value": "A thing."},
        {"from": "human", "value": "Which?"},
    ],
    "output_1": {"from": "llava", "value": "A car."},
    "output_2": {"from": "llava", "value": "A cup."},
    "preference": 2,
    "hallucination": False,
}


def open_webui(**data: Any) -> dict[str, Any]:
    messages = {
        "q": {
            "id": "q",
            "parentId": None,
            "childrenIds": ["a", "b"],
            "role": "user",
            "content": "What?",
            "files": [{"type": "image", "url": "data:image/png;base64,AAAA"}],
        },
        "a": {"id": "a", "parentId": "q", "childrenIds": [], "role": "assistant", "content": "A cup.", "model": "m1"},
        "b": {"id": "b", "parentId": "q", "childrenIds": [], "role": "assistant", "content": "A car.", "model": "m2"},
    }
    return {
        "id": "f",
        "user_id": "ann",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": 1,
            "model_id": "m1",
            "sibling_model_ids": None,
            "reason": "accurate",
            "comment": "",
            "tags": [],
        }
        | data,
        "meta": {"arena": False, "chat_id": "c", "message_id": "a", "message_index": 1},
        "snapshot": {"chat": {"id": "c", "title": "…", "chat": {"history": {"messages": messages, "currentId": "a"}}}},
        "created_at": 1,
        "updated_at": 1,
    }


TENSORZERO = {
    "type": "chat",
    "function_name": "describe",
    "variant_name": "v1",
    "inference_id": "0197",
    "input": {
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "file", "mime_type": "image/png", "data": "AAAA"},
                    {"type": "text", "text": "What?"},
                ],
            }
        ],
    },
    "output": [{"type": "text", "text": "A cup."}],
    "tags": {"user_id": "ann"},
}
TENSORZERO_TURNS = (
    Turn("system", ("Be brief.",)),
    *asked(Picture("data:image/png;base64,AAAA"), "What?"),
)
FROM_CLICKHOUSE = {
    name: json.dumps(value) if name in {"input", "output"} else value for name, value in TENSORZERO.items()
}

GOOD: list[tuple[Format, dict[str, Any], ImportedGroup]] = [
    (
        Format.RLHF_V,
        RLHF_V,
        ImportedGroup(asked(Picture(PNG), "What is this?"), ("A cup.", "A car."), (Better(0, 1, "correction"),)),
    ),
    (
        Format.RLHF_V,
        RLAIF_V,
        ImportedGroup(asked(CUP, "What?"), ("A cup.", "A car."), (Better(0, 1, "correction"),)),
    ),
    (
        Format.MM_RLHF,
        MM_RLHF,
        ImportedGroup(
            asked(Picture("short/0/cup.png"), "What is this?"), ("A cup.", "A car."), (Better(0, 1, "ranking"),)
        ),
    ),
    (
        Format.MM_RLHF,
        MM_RLHF_SCORES,
        # cup and mug are worth 4.5, car 1.5; the dog has no score
        ImportedGroup(
            asked(Picture("short/0/cup.png"), "What is this?"),
            ("A cup.", "A car.", "A mug."),
            (Better(0, 1, "ranking"), Better(2, 1, "ranking")),
        ),
    ),
    *(
        (
            Format.VLFEEDBACK,
            row,
            # cup and mug are worth 4.5, car 1.5: equals are not compared
            ImportedGroup(asked(CUP, "What?"), ("cup", "car", "mug"), (Better(0, 1, "ai"), Better(2, 1, "ai"))),
        )
        for row in (VLFEEDBACK, VLFEEDBACK_COLUMNS)
    ),
    (
        Format.PREFERENCE_10K,
        PREFERENCE_10K,
        ImportedGroup(
            (Turn("user", ("What is this?", CUP)), Turn("assistant", ("A thing.",)), Turn("user", ("Which?",))),
            ("A cup.", "A car."),
            (Better(0, 1),),
        ),
    ),
    (
        Format.OPEN_WEBUI,
        open_webui(),
        ImportedGroup(
            asked(Picture("data:image/png;base64,AAAA"), "What?"),
            ("A cup.",),
            (Rated(0, 1.0, labels=("accurate",), user="ann"),),
            "ann",
        ),
    ),
    (
        Format.OPEN_WEBUI,
        open_webui(rating="-1", sibling_model_ids=["m2"]),
        ImportedGroup(
            asked(Picture("data:image/png;base64,AAAA"), "What?"),
            ("A cup.", "A car."),
            (Better(1, 0, user="ann"),),
            "ann",
        ),
    ),
    (
        Format.TENSORZERO,
        {**TENSORZERO, "metric_name": "accepted", "value": False},
        ImportedGroup(TENSORZERO_TURNS, ("A cup.",), (Rated(0, -1.0, labels=("accepted",), user="ann"),), "ann"),
    ),
    (
        Format.TENSORZERO,
        {**FROM_CLICKHOUSE, "metric_name": "demonstration", "value": json.dumps([{"type": "text", "text": "A mug."}])},
        ImportedGroup(TENSORZERO_TURNS, ("A mug.", "A cup."), (Better(0, 1, "correction", user="ann"),), "ann"),
    ),
    (
        Format.TENSORZERO,
        {**TENSORZERO, "dispreferred_outputs": [[{"type": "text", "text": "A car."}]]},
        ImportedGroup(TENSORZERO_TURNS, ("A cup.", "A car."), (Better(0, 1, "correction", user="ann"),), "ann"),
    ),
    (
        Format.TRL,
        {
            "prompt": [
                {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "text": None}]}
            ],
            "images": ["cup.png"],
            "chosen": [{"role": "assistant", "content": "A cup."}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A car."}]}],
            "source": "thumbs",
            "weight": 0.5,
            "annotator": "abc",
        },
        ImportedGroup(asked("What?", CUP), ("A cup.", "A car."), (Better(0, 1, "thumbs", 0.5, "abc"),)),
    ),
    (
        Format.TRL,
        {
            "chosen": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cup."}],
            "rejected": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A car."}],
        },
        ImportedGroup(asked("What?"), ("A cup.", "A car."), (Better(0, 1),)),
    ),
    (
        Format.TRL,
        {"prompt": "What?", "completion": "A cup.", "label": False, "image": "cup.png"},
        ImportedGroup(asked(CUP, "What?"), ("A cup.",), (Rated(0, -1.0),)),
    ),
    (
        Format.PLAIN,
        {"prompt": "What?", "images": ["cup.png"], "chosen": "A cup.", "rejected": ["A car.", "A dog."]},
        ImportedGroup(asked(CUP, "What?"), ("A cup.", "A car.", "A dog."), (Better(0, 1), Better(0, 2))),
    ),
    (
        Format.PLAIN,
        {"prompt": [{"role": "user", "content": "What?"}], "ranking": ["a", "b", "c"], "user": "ann"},
        ImportedGroup(
            asked("What?"),
            ("a", "b", "c"),
            tuple(Better(one, two, "ranking", 1.0, "ann") for one, two in [(0, 1), (0, 2), (1, 2)]),
            "ann",
        ),
    ),
    (
        Format.PLAIN,
        {"prompt": "What?", "answer": "A cup.", "rating": "down", "comment": "no", "labels": ["short"]},
        ImportedGroup(asked("What?"), ("A cup.",), (Rated(0, -1.0, "no", ("short",)),)),
    ),
]


@pytest.mark.parametrize(("format", "row", "group"), GOOD)
def test_a_row_of_the_format_is_understood(format: Format, row: dict[str, Any], group: ImportedGroup) -> None:
    """Prompt, images in their places, answers, and who is better, as the publishers mean it."""
    assert FORMATS[format](row) == group


BAD: list[tuple[Format, dict[str, Any], str]] = [
    (Format.RLHF_V, RLHF_V | {"text": "{"}, "text is not JSON"),
    (Format.RLHF_V, {"question": "?", "chosen": "a", "rejected": "b"}, "image is missing"),
    (Format.RLHF_V, RLAIF_V | {"rejected": "A cup."}, "the same answer"),
    (Format.MM_RLHF, MM_RLHF | {"video": "v.mp4"}, "video"),
    (Format.MM_RLHF, MM_RLHF | {"prompt": "<image><image>"}, "2 places for 1 images"),
    (Format.MM_RLHF, MM_RLHF_SCORES | {"video": "v.mp4"}, "video"),
    (Format.MM_RLHF, MM_RLHF_SCORES | {"models_output": "A cup."}, "models_output is not a list"),
    (Format.MM_RLHF, MM_RLHF_SCORES | {"faithfulness": [1, 1, 1], "helpfulness": None}, "no answer is rated higher"),
    (Format.MM_RLHF, MM_RLHF_SCORES | {"question": ""}, "question is empty"),
    (Format.VLFEEDBACK, VLFEEDBACK | {"completions": COMPLETIONS[:1]}, "no answer is rated higher"),
    (Format.VLFEEDBACK, VLFEEDBACK | {"completions": 3}, "completions"),
    (Format.PREFERENCE_10K, PREFERENCE_10K | {"preference": 0}, "preference"),
    (Format.PREFERENCE_10K, PREFERENCE_10K | {"output_1": None}, "output_1 is missing"),
    (Format.OPEN_WEBUI, open_webui(rating=None), "rating"),
    (Format.OPEN_WEBUI, open_webui() | {"snapshot": {}}, "snapshot"),
    (Format.OPEN_WEBUI, open_webui() | {"meta": {"message_id": "x"}}, "not in the snapshot"),
    (Format.TENSORZERO, TENSORZERO, "no demonstration"),
    (Format.TENSORZERO, {**TENSORZERO, "metric_name": "stars", "value": 5}, "from -1 to 1"),
    (Format.TENSORZERO, {**TENSORZERO, "input": {"messages": [{"role": "user", "content": [{"type": "tool_call"}]}]},
                         "metric_name": "m", "value": 1}, "tool_call"),
    (Format.TRL, {"prompt": "What?", "chosen": "a"}, "rejected"),
    (Format.TRL, {"prompt": [{"role": "wizard", "content": "?"}], "chosen": "a", "rejected": "b"}, "wizard"),
    (Format.TRL, {"prompt": "?", "chosen": "a", "rejected": "b", "weight": float("nan")}, "weight"),
    (Format.TRL, {"prompt": "?", "completion": "a", "label": 1}, "label"),
    (Format.PLAIN, {"prompt": "?", "chosen": "a", "rejected": "b", "colour": 1}, "colour"),
    (Format.PLAIN, {"prompt": "?", "chosen": "a", "rejected": "b", "rating": 1}, "say one of"),
    (Format.PLAIN, {"prompt": "?", "ranking": ["a"]}, "nothing to compare"),
    (Format.PLAIN, {"prompt": "?", "answer": "a", "rating": 2}, "rating"),
    (Format.PLAIN, {}, "no conversation"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "reason"), BAD)
def test_a_wrong_row_is_refused_with_its_reason(format: Format, row: dict[str, Any], reason: str) -> None:
    """The reason names what is wrong, for the person who has the file."""
    with pytest.raises(UnreadableRow, match=reason):
        FORMATS[format](row)


DAMAGE = (
    None,
    7,
    -0.5,
    True,
    "",
    "x",
    "{}",
    [],
    [None],
    [[]],
    {},
    {"role": 1},
    [{"role": "user"}],
    [{"type": "image"}],
)


def damaged(value: Any) -> Iterator[Any]:
    """The value with one of its parts, at any depth, replaced by something else."""
    yield from DAMAGE
    if isinstance(value, dict):
        yield from ({**value, name: worse} for name, inner in value.items() for worse in damaged(inner))
        yield from ({other: value[other] for other in value if other != name} for name in value)
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], worse, *value[place + 1 :]] for worse in damaged(inner))
            yield [*value[:place], *value[place + 1 :]]


@pytest.mark.parametrize("format", list(Format))
def test_no_damage_gets_past_a_parser(format: Format) -> None:
    """Whatever stands wherever in a row: a group or an `UnreadableRow`, never another exception."""
    count = 0
    for _, good, _ in [one for one in GOOD if one[0] is format]:
        for row in [worse for worse in damaged(good) if isinstance(worse, dict)]:
            count += 1
            try:
                assert isinstance(FORMATS[format](row), ImportedGroup)
            except UnreadableRow:
                continue
    assert count > 50


def wire(picture: str | bytes, images: Path) -> Any:
    group = ImportedGroup(asked(Picture(picture), "What?"), ("a", "b"), (Better(0, 1),))
    return to_wire(group, images).messages[0].content[0]


def test_pictures_travel_inside_the_message(tmp_path: Path) -> None:
    """Bytes and files below the directory become `data:` URLs of their true type."""
    (tmp_path / "cup.jpg").write_bytes(PNG)
    for picture in (PNG, "cup.jpg"):
        assert wire(picture, tmp_path).image_url.url == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "none.png", "note.txt", "https://x/y.png", "a\0b"])
def test_a_row_reads_no_file_but_its_own_images(tmp_path: Path, name: str) -> None:
    """Paths out of the directory, web addresses and files that are no image are refused."""
    (tmp_path / "secret.png").write_bytes(PNG)
    images = tmp_path / "images"
    images.mkdir()
    (images / "note.txt").write_text("private")
    with pytest.raises(UnreadableRow):
        wire(name, images)
