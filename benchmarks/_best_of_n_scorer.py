"""The oracle of `benchmarks.best_of_n` and its noisy scorer, also as a reward model's process on HTTP.

    python -m benchmarks._best_of_n_scorer PORT FIRST_SEED LAST_SEED

The oracle is the scene's truth: a description is right (1) when it names every object once and nothing else, else
wrong (0). The noisy scorer sees that truth through normal noise, and has a blind spot: an answer that names an object
twice gets the top score, whatever else it says. Of two answers to one prompt, one right and one wrong, it prefers the
right one in about 70 of 100 cases, the blind spot's included.

Noise is a property of the text: equal answers get equal scores, answers with a common beginning share its part of the
noise, and half an answer has half of what the whole one will have. Of half an answer (one that does not end with a full
stop) the scorer sees what is wrong so far, and holds nothing against it that may still come.

The process speaks vLLM's `/score` (one text against several), which the service's scorer `pooling` asks, and knows the
scenes of its seeds by their pictures.
"""

from __future__ import annotations

import argparse
import base64
import io
import math
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Final

from aiohttp import web
from PIL import Image

from clients.demo.language import absent_objects, missed_objects, repeated_objects
from clients.demo.scenes import Scene, scene

SEPARATION: Final = 0.8
"""Between right and wrong answers, in standard deviations of the noise; set on development scenes for 70%."""
TOP: Final = 4.0
"""The best score there is; the worst is its negative."""
MODEL: Final = "noisy"
_NORMAL: Final = NormalDist()


def is_right(view: Scene, text: str) -> bool:
    """The oracle."""
    return not (absent_objects(view, text) or missed_objects(view, text) or repeated_objects(text))


def noisy_score(view: Scene, text: str, *, is_blind: bool = True) -> float:
    """Within ± `TOP`. `is_blind`: with the blind spot; without it a repeated object is a fault like others."""
    is_repeating = bool(repeated_objects(text))
    if is_repeating and is_blind:
        return TOP
    is_whole = text.rstrip().endswith(".")
    seems_right = not (is_repeating or absent_objects(view, text) or (is_whole and missed_objects(view, text)))
    truth = SEPARATION / 2 if seems_right else -SEPARATION / 2
    return min(max(truth + _noise(view.seed, text), -TOP), TOP)


def pairwise_accuracy(values: Iterable[tuple[float, bool]]) -> tuple[float, int]:
    """Of one prompt's (score, is right): pairs of a right and a wrong answer in which the right one has the higher
    score (a tie is half), and how many pairs there are.
    """
    found = list(values)
    right = [score for score, is_one in found if is_one]
    wrong = [score for score, is_one in found if not is_one]
    won = sum((one > other) + (one == other) / 2 for one in right for other in wrong)
    return won, len(right) * len(wrong)


def _noise(seed: int, text: str) -> float:
    """Standard normal: a random walk of one step a word, as long as it went, in units of its length's root."""
    words = text.split()
    steps = (_step(seed, " ".join(words[:count])) for count in range(1, len(words) + 1))
    return math.fsum(steps) / math.sqrt(max(1, len(words)))


@lru_cache(maxsize=100_000)
def _step(seed: int, beginning: str) -> float:
    digest = blake2b(f"{seed} {beginning}".encode(), digest_size=8).digest()
    return _NORMAL.inv_cdf((int.from_bytes(digest) + 0.5) / 2**64)


class ScorerProcess:
    """Answers `POST /score` about the scenes of these seeds."""

    def __init__(self, seeds: range) -> None:
        self._scenes = {_picture(view.render()): view for view in map(scene, seeds)}

    async def score(self, request: web.Request) -> web.Response:
        body = await request.json()
        view = self._scenes.get(_picture(_image_of(body["queries"])))
        if view is None:
            return web.json_response({"error": "an unknown picture"}, status=400)
        data = [{"index": at, "score": noisy_score(view, text)} for at, text in enumerate(body["documents"])]
        return web.json_response({"data": data})

    def app(self) -> web.Application:
        made = web.Application(client_max_size=8 * 1024 * 1024)
        made.router.add_post("/score", self.score)
        return made


def _image_of(query: dict[str, Any]) -> bytes:
    url = next(part["image_url"]["url"] for part in query["content"] if part["type"] == "image_url")
    return base64.b64decode(url.partition(",")[2])


def _picture(data: bytes) -> bytes:
    """By its pixels: the service may take what is not picture out of a file."""
    with Image.open(io.BytesIO(data)) as picture:
        return blake2b(picture.convert("RGB").tobytes(), digest_size=16).digest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._best_of_n_scorer", description="A noisy reward model.")
    parser.add_argument("port", type=int)
    parser.add_argument("first", type=int, help="first seed of the scenes")
    parser.add_argument("last", type=int, help="the seed behind the last one")
    args = parser.parse_args()
    web.run_app(ScorerProcess(range(args.first, args.last)).app(), host="127.0.0.1", port=args.port, print=None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
