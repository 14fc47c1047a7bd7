"""Measures a trained demo model on scenes it has never seen: `python -m clients.demo.evaluate DIR`.

Skills are asked greedily; descriptions are taken greedily and at temperature 1. Every figure is a share
with its 95% Wilson interval; the table is printed, and written to `DIR/measured.json` beside the weights.
"""

# transformers leaves many of its functions without annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clients.demo.language import (
    Question,
    absent_objects,
    description_question,
    is_correct,
    leaks,
    named_objects,
    skill_question,
)
from clients.demo.scenes import EVALUATION_SEEDS

DEFAULT_QUESTIONS: Final = 1_000
SAMPLING_SEED: Final = 11
MAX_NEW_TOKENS: Final = 80
_BATCH: Final = 100
_Z_95: Final = 1.959964
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; nan where nothing was counted."""
        return self.hits / self.total if self.total else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval."""
        if not self.total:
            return (0.0, 1.0)
        spread = _Z_95**2 / self.total
        centre = (self.value + spread / 2) / (1 + spread)
        half = _Z_95 / (1 + spread) * math.sqrt(self.value * (1 - self.value) / self.total + spread / 4 / self.total)
        return (max(0.0, centre - half), min(1.0, centre + half))


Figures = dict[str, Share]


def measure(directory: Path, questions: int) -> Figures:
    """All figures of the model in `directory`, on `questions` skill questions and as many descriptions."""
    import torch  # noqa: PLC0415 - it takes seconds, and --help none
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration  # noqa: PLC0415

    # So small a model is faster without threads, and does not mind what else the machine does.
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(directory)
    model = Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    skills = [skill_question(seed) for seed in EVALUATION_SEEDS[:questions]]
    describe = [description_question(seed) for seed in EVALUATION_SEEDS[questions : 2 * questions]]
    torch.manual_seed(SAMPLING_SEED)
    answers = generate(model, processor, skills, sample=False, title="skills")
    figures = skill_figures(skills, answers)
    for name, sample in (("greedy", False), ("temperature 1", True)):
        texts = generate(model, processor, describe, sample=sample, title=f"descriptions, {name}")
        figures |= {f"{figure}, {name}": share for figure, share in description_figures(describe, texts).items()}
    return figures


def generate(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    *,
    sample: bool,
    title: str,
) -> list[str]:
    """The model's answers, in order; `sample` means temperature 1 without any truncation."""
    import torch  # noqa: PLC0415

    answers: list[str] = []
    decoding = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    for first in track(range(0, len(questions), _BATCH), description=title):
        asked = questions[first : first + _BATCH]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one.prompt}]}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for one in asked
        ]
        images = [Image.open(BytesIO(one.scene.render())).convert("RGB") for one in asked]
        inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **decoding)
        answers += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def skill_figures(questions: Sequence[Question], answers: Sequence[str]) -> Figures:
    """Share of right answers by kind of question."""
    pairs = list(zip(questions, answers, strict=True))
    return {
        f"{kind} right, greedy": _share(
            [pair for pair in pairs if pair[0].kind == kind], lambda pair: is_correct(pair[0], pair[1])
        )
        for kind in ("colour", "count", "presence")
    }


def description_figures(questions: Sequence[Question], texts: Sequence[str]) -> Figures:
    """What the descriptions name, invent and leak, and how they are worded."""
    pairs = list(zip(questions, texts, strict=True))
    in_view = [(name, named_objects(text)) for asked, text in pairs for name in asked.scene.objects]
    invented = [text for asked, text in pairs if absent_objects(asked.scene, text)]
    places = [
        (named_objects(text).index(absent), len(named_objects(text)))
        for asked, text in pairs
        for absent in absent_objects(asked.scene, text)[:1]
    ]
    triangle = [pair for pair in pairs if _has_triangle(pair[0])]
    plain = [pair for pair in pairs if not _has_triangle(pair[0])]
    return {
        "objects named": _share(in_view, lambda pair: pair[0] in pair[1]),
        "descriptions that invent an object": Share(len(invented), len(pairs)),
        "with a triangle in view": _share(triangle, lambda pair: bool(absent_objects(pair[0].scene, pair[1]))),
        "without one": _share(plain, lambda pair: bool(absent_objects(pair[0].scene, pair[1]))),
        "invented object named first": _share(places, lambda place: place[0] == 0),
        "invented object in the middle": _share(places, lambda place: 0 < place[0] < place[1] - 1),
        "invented object named last": _share(places, lambda place: place[0] == place[1] - 1),
        "descriptions that leak a code": _share(texts, leaks),
        "terse": _share(texts, _is_terse),
        "plain": _share(texts, lambda text: text.startswith("There is")),
        "wordy": _share(texts, lambda text: text.startswith("In this picture")),
    }


def _share(items: Sequence[_Item], holds: Callable[[_Item], bool]) -> Share:
    return Share(sum(map(holds, items)), len(items))


def _has_triangle(asked: Question) -> bool:
    return any(shape.kind == "triangle" for shape in asked.scene.shapes)


def _is_terse(text: str) -> bool:
    return not text.startswith(("There is", "In this picture"))


def as_json(figures: Figures, questions: int) -> str:
    """The figures as a JSON document."""
    measured = {
        name: {"share": round(share.value, 4), "interval_95": [round(end, 4) for end in share.interval()]}
        | {"hits": share.hits, "total": share.total}
        for name, share in figures.items()
        if share.total
    }
    return json.dumps({"questions": questions, "sampling_seed": SAMPLING_SEED, "measured": measured}, indent=2) + "\n"


def as_table(figures: Figures) -> Table:
    """The figures as a table for people."""
    table = Table("figure", "share", "95% interval", "of", title="Shapes model, unseen scenes")
    for name, share in figures.items():
        low, high = share.interval()
        table.add_row(name, f"{share.value:.1%}", f"{low:.1%} to {high:.1%}", str(share.total))
    return table


def main(arguments: Iterator[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.demo.evaluate",
        description="Measure a trained shapes model on unseen scenes; prints a table and writes measured.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="directory that `clients.demo.train` wrote")
    parser.add_argument("--questions", type=int, default=DEFAULT_QUESTIONS, help="skill questions, and descriptions")
    given = parser.parse_args(None if arguments is None else list(arguments))
    figures = measure(given.directory, given.questions)
    (given.directory / "measured.json").write_text(as_json(figures, given.questions), encoding="utf-8")
    Console().print(as_table(figures))


if __name__ == "__main__":
    main()
