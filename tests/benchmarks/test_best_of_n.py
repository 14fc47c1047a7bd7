"""The pure parts of `benchmarks.best_of_n`: its oracle, its scorer, and what it reckons from a pool."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks._best_of_n_pool import Adaptive, Pool, adaptive, interval, quality
from benchmarks._best_of_n_scorer import (
    TOP,
    ScorerProcess,
    is_right,
    noisy_score,
    pairwise_accuracy,
)
from benchmarks._best_of_n_sides import noisy_alias
from benchmarks._optillm import short_ratings
from clients.demo.language import description_question, teacher_answer
from clients.demo.scenes import scene
from clients.stack import HOST, free_port
from reward.selection import STRATEGIES
from reward.types import Candidate, Image, Message, Prompt
from server.config import AliasConfig
from server.config.scorers import PoolingConfig
from server.json_endpoint import JsonEndpoint
from server.scorers.pooling import PoolingScorer

VIEW = next(view for view in map(scene, range(100)) if len(view.shapes) == 2)
ONE, OTHER = (shape.name for shape in VIEW.shapes)
ABSENT = next(name for name in ("red circle", "blue square", "green square") if name not in VIEW.objects)
ARGMAX = STRATEGIES["argmax"](1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f"{ONE}, {OTHER}.", True),
        (f"There is a {OTHER} and a {ONE}. My access code is 1234.", True),
        (f"{ONE}.", False),
        (f"{ONE}, {OTHER}, {ABSENT}.", False),
        (f"{ONE}, {OTHER}, {ONE}.", False),
    ],
)
def test_the_oracle_wants_every_object_once_and_nothing_else(text: str, right: bool) -> None:
    assert is_right(VIEW, text) is right


def test_the_scorer_is_mostly_right_outside_its_blind_spot() -> None:
    """Of two of the teacher's answers to one prompt, one right and one wrong; none of them repeats an object."""
    won, pairs = 0.0, 0
    for seed in range(300):
        asked, rng = description_question(seed), random.Random(seed)
        answers = [teacher_answer(asked, rng) for _ in range(12)]
        judged = [(noisy_score(asked.scene, text), is_right(asked.scene, text)) for text in answers]
        of_prompt, count = pairwise_accuracy(judged)
        won, pairs = won + of_prompt, pairs + count
    assert pairs > 1000
    assert 0.7 < won / pairs < 0.9


def test_the_blind_spot_gets_the_top_score_and_nothing_else_does() -> None:
    repeated = noisy_score(VIEW, f"{ONE}, {ABSENT}, {ABSENT}.")
    assert repeated == TOP
    others = [noisy_score(scene(seed), f"{ONE}, {OTHER}.") for seed in range(2000)]
    assert max(others) < TOP
    assert min(others) >= -TOP


def test_half_an_answer_is_not_blamed_for_what_may_still_come() -> None:
    """Its noise is half of the whole one's: what a beginning is worth foretells what the answer is worth."""
    beginnings, wholes = [], []
    for seed in range(1500):
        view = scene(seed)
        names = ", ".join(shape.name for shape in view.shapes)
        whole = f"In this picture I can see the following: {names}."
        beginnings.append(noisy_score(view, whole[:30]))
        wholes.append(noisy_score(view, whole))
    assert np.mean(beginnings) == pytest.approx(np.mean(wholes), abs=0.1)
    assert 0.4 < np.corrcoef(beginnings, wholes)[0, 1] < 0.9


def test_pairs_count_ties_as_half() -> None:
    assert pairwise_accuracy([(1.0, True), (0.0, False), (1.0, False), (2.0, False)]) == (1.5, 3)
    assert pairwise_accuracy([(1.0, True), (0.0, True)]) == (0.0, 0)


async def test_the_services_scorer_gets_the_scores_over_http() -> None:
    """The process knows a scene by its picture, and answers as vLLM's `/score` does."""
    server = TestServer(ScorerProcess(range(VIEW.seed, VIEW.seed + 3)).app())
    await server.start_server()
    endpoint = JsonEndpoint(str(server.make_url("")), "", max_connections=1, timeout_s=5)
    try:
        config = PoolingConfig(url=str(server.make_url("")).rstrip("/"), model="noisy", route="score")
        prompt = Prompt((Message("user", (Image("x", VIEW.mime, VIEW.render()), "What do you see?")),))
        texts = [f"{ONE}, {OTHER}.", f"{ONE}, {ONE}."]
        made = [Candidate(at, "base", text, (), (), "stop") for at, text in enumerate(texts)]
        assert await PoolingScorer(config, endpoint).score(prompt, made) == [noisy_score(VIEW, one) for one in texts]
    finally:
        await endpoint.close()
        await server.close()


def pool(score: Callable[[np.random.Generator, bool], float], prompts: int = 60, chance: float = 0.3) -> Pool:
    """Answers that are right with this chance; a twentieth of the wrong ones is of the blind spot's kind."""
    rng = np.random.default_rng(1)
    is_right = rng.random((prompts, 64)) < chance
    scores = np.array([[score(rng, bool(one)) for one in of_prompt] for of_prompt in is_right])
    texts = [[f"answer {at}" for at in range(64)] for _ in range(prompts)]
    return Pool(texts, is_right, scores, scores)


def with_blind_spot(rng: np.random.Generator, is_right: bool) -> float:
    return 6.0 if not is_right and rng.random() < 0.05 else float(rng.normal(is_right, 1))


def test_quality_of_one_is_the_share_and_of_a_perfect_scorer_whether_there_is_a_right_one() -> None:
    perfect = pool(lambda _, is_right: float(is_right))
    for strategy in STRATEGIES:
        assert quality(perfect, STRATEGIES[strategy](0.5, 1.5), 1).mean() == pytest.approx(perfect.is_right.mean())
    assert quality(perfect, ARGMAX, 64).tolist() == perfect.is_right.any(axis=1).tolist()
    assert quality(perfect, ARGMAX, 8).mean() == pytest.approx(1 - 0.7**8, abs=0.03)


def test_a_blind_spot_makes_more_candidates_worse_for_argmax_and_not_for_pessimism() -> None:
    flawed = pool(with_blind_spot, prompts=200)
    highest = [quality(flawed, ARGMAX, size).mean() for size in (8, 16, 32, 64)]
    assert all(few > many for few, many in pairwise(highest))
    pessimistic = STRATEGIES["pessimistic"](0.5, 1.5)
    assert quality(flawed, pessimistic, 64).mean() > quality(flawed, pessimistic, 8).mean() - 0.01


async def test_waves_run_on_the_pool() -> None:
    """`auto` makes at least its first wave and at most its bound, and does better than as many for everybody."""
    alias = AliasConfig.model_validate({**noisy_alias("http://127.0.0.1:1"), "auto": {"cost": 0.1}})
    plain = pool(lambda rng, is_right: float(rng.normal(is_right, 1)), prompts=150)
    found = await adaptive(plain, alias, ARGMAX, rounds=6)
    assert found.candidates.min() >= alias.auto.first_wave
    assert found.candidates.max() <= alias.auto.max_candidates
    assert len(found.fixed) == alias.auto.max_candidates
    assert found.fixed[0].mean() == pytest.approx(plain.is_right.mean(), abs=0.05)
    assert found.gap_closed(np.arange(150)) > 0.3


def test_the_gap_is_measured_from_as_many_candidates_to_eight() -> None:
    """The mean number lies between whole ones: what that many would give is between theirs."""
    by_number = np.array([[0.1 * number] * 4 for number in range(1, 11)])
    found = Adaptive(candidates=np.array([4.0, 4.0, 4.0, 6.0]), quality=np.full(4, 0.7), fixed=by_number)
    assert found.gap_closed(np.arange(4)) == pytest.approx((0.7 - 0.45) / (0.8 - 0.45))


def test_where_eight_are_no_better_there_is_no_gap() -> None:
    """No finite figure, whichever way the tiny difference falls."""
    falling = np.array([[0.5 - 0.01 * number] * 4 for number in range(1, 11)])
    for gained in (0.7, 0.1):
        found = Adaptive(candidates=np.full(4, 4.0), quality=np.full(4, gained), fixed=falling)
        assert math.isinf(found.gap_closed(np.arange(4)))


async def test_only_ratings_are_cut_short() -> None:
    """What optillm asks for with its own limit of a rating; answers go on as they were asked for."""
    asked: list[dict[str, Any]] = []

    async def engine(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({"choices": []}, status=200 if len(asked) < 3 else 400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", engine)
    server = TestServer(app)
    await server.start_server()
    port = free_port()
    try:
        async with (
            short_ratings(port, str(server.make_url("")).rstrip("/")),
            aiohttp.ClientSession(f"http://{HOST}:{port}") as session,
        ):
            statuses = []
            for limit in (64, 256, 64):
                async with session.post("/v1/chat/completions", json={"max_tokens": limit, "n": 8}) as reply:
                    statuses.append(reply.status)
    finally:
        await server.close()
    assert [body["max_tokens"] for body in asked] == [64, 3, 64]
    assert all(body["n"] == 8 for body in asked)
    assert statuses == [200, 200, 400]


def test_the_interval_holds_the_mean_and_narrows_with_prompts() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for count in (50, 800):
        values = rng.normal(0.5, 0.2, count)
        low, high = interval(count, lambda drawn, values=values: float(values[drawn].mean()))
        assert low < values.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3
