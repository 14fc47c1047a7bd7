"""The engine port's promises, held by the fake and by real vLLM alike."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest

from reward.types import STEP, Candidate, Image, Message, Prompt, Tool, ToolCall
from server import tool_calls
from server.engine.client import VllmEngine
from server.engine.fake import FakeEngine
from server.engine.pool import EnginePool
from server.engine.port import (
    Beginning,
    EngineError,
    Generation,
    PromptTooLong,
    RefusedParameter,
    Replica,
    Retokenised,
    Sampling,
    ScoredAnswer,
    UnknownModel,
)
from server.engine.supervisor import EngineSupervisor
from tests.engine_fixture import EngineSession, write_random_adapter

TOLERANCE = 2e-4
"""Float32, other batch shapes: nats per token."""

SMALLEST = {
    "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8,
    "num_hidden_layers": 1,
}  # fmt: skip
"""The fake's base model: enough to write adapters for."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test, and where its adapters are published."""

    engine: Replica | EnginePool
    adapters_dir: Path
    model_dir: Path

    @property
    def base(self) -> str:
        return self.engine.base_model

    def publish(self, scale: float = 0.05, seed: int = 0) -> str:
        """A new adapter's id, never used before."""
        adapter_id = f"contract-{next(_numbers):04d}"
        write_random_adapter(self.adapters_dir, adapter_id, str(self.model_dir), scale, seed)
        return adapter_id


@asynccontextmanager
async def pooled(connect: Callable[[], Replica]) -> AsyncIterator[EnginePool]:
    """Two replicas behind one port; nothing is live."""

    async def prove(engine: object, adapter: str) -> str:
        return ""

    engines = [connect() for _ in range(2)]
    pool = EnginePool([(engine, EngineSupervisor(engine, None, probe_interval_s=1.0)) for engine in engines])
    pool.start(set, prove)
    assert await pool.wait_ready(60.0)
    yield pool
    await pool.stop()
    await pool.close()


REAL = [pytest.param(name, marks=pytest.mark.engine) for name in ("vllm", "pool of vllm")]


@pytest.fixture(params=["fake", "pool of fakes", *REAL])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Each adapter of the port, and each behind a pool, one after the other."""
    is_pool = request.param.startswith("pool")
    if "fake" in request.param:
        adapters_dir, model_dir = tmp_path / "adapters", tmp_path / "model"
        model_dir.mkdir()
        (model_dir / "config.json").write_text(json.dumps({"text_config": SMALLEST}))

        def connect() -> Replica:
            return FakeEngine(adapters_dir=adapters_dir, delay_s=0.001, max_model_len=2048)

    else:
        session: EngineSession = request.getfixturevalue("engine_session")
        adapters_dir, model_dir = session.adapters_dir, session.model_dir

        def connect() -> Replica:
            return VllmEngine(session.url, session.model)

    if is_pool:
        async with pooled(connect) as pool:
            yield Subject(pool, adapters_dir, model_dir)
        return
    engine = connect()
    yield Subject(engine, adapters_dir, model_dir)
    await engine.close()


def picture(colour: str = "red") -> Image:
    buffer = BytesIO()
    PIL.Image.new("RGB", (96, 96), colour).save(buffer, "PNG")
    data = buffer.getvalue()
    return Image(sha256(data).hexdigest(), "image/png", data)


def ask(text: str = "Describe the picture.", colour: str = "red") -> Prompt:
    return Prompt((Message("system", ("You are a helpful assistant.",)), Message("user", (picture(colour), text))))


def texts(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.text for candidate in candidates]


async def test_it_gives_n_candidates_with_ids_and_logprobs(subject: Subject) -> None:
    """The answers in order, one finite log-probability for each token, one prompt for all."""
    generation = await subject.engine.generate(subject.base, ask(), 4, Sampling(max_tokens=12, seed=1))
    assert [candidate.index for candidate in generation.candidates] == [0, 1, 2, 3]
    assert len(generation.prompt_token_ids) > 9
    for candidate, tokens in zip(generation.candidates, generation.tokens, strict=True):
        assert candidate.adapter == subject.base
        assert 0 < len(candidate.token_ids) <= 12
        assert len(candidate.token_ids) == len(candidate.logprobs) == len(tokens)
        assert candidate.logprobs == tuple(token.logprob for token in tokens)
        assert all(logprob <= 0 for logprob in candidate.logprobs)
        assert candidate.finish_reason in {"stop", "length"}


async def test_image_placeholders_are_expanded(subject: Subject) -> None:
    """An image takes more than one id of the prompt; two images take twice as many."""
    one = Prompt((Message("user", (picture(),)),))
    two = Prompt((Message("user", (picture(), picture("blue"))),))
    sampling = Sampling(max_tokens=1, seed=0)
    lengths = [
        len((await subject.engine.generate(subject.base, prompt, 1, sampling)).prompt_token_ids)
        for prompt in (Prompt((Message("user", ("",)),)), one, two)
    ]
    assert lengths[1] - lengths[0] > 1
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0]


async def test_the_same_seed_repeats_the_same_answers(subject: Subject) -> None:
    """A seed fixes all candidates."""
    sampling = Sampling(max_tokens=12, seed=7)
    first, second = [await subject.engine.generate(subject.base, ask(), 4, sampling) for _ in range(2)]
    assert first.candidates == second.candidates or (
        texts(first.candidates) == texts(second.candidates)
        and all(
            left.logprobs == pytest.approx(right.logprobs, abs=TOLERANCE)
            for left, right in zip(first.candidates, second.candidates, strict=True)
        )
    )


async def test_candidate_i_is_drawn_with_seed_plus_i(subject: Subject) -> None:
    """So wave k of an adaptive request uses seed + candidates so far, and repeats nothing."""
    whole = await subject.engine.generate(subject.base, ask(), 4, Sampling(max_tokens=12, seed=7))
    wave = await subject.engine.generate(subject.base, ask(), 2, Sampling(max_tokens=12, seed=9))
    assert texts(wave.candidates) == texts(whole.candidates)[2:]
    assert len(set(texts(whole.candidates))) > 1


async def test_temperature_zero_is_greedy_for_one_candidate_only(subject: Subject) -> None:
    """The seed does not matter; more than one candidate is refused for good."""
    engine = subject.engine
    answers = {
        (await engine.generate(subject.base, ask(), 1, Sampling(12, temperature=0, seed=seed))).candidates[0].token_ids
        for seed in (1, 2, 3)
    }
    assert len(answers) == 1
    with pytest.raises(EngineError) as caught:
        await engine.generate(subject.base, ask(), 2, Sampling(12, temperature=0))
    assert not caught.value.retryable


async def test_alternatives_are_the_likeliest_first(subject: Subject) -> None:
    """As many as asked for at every position, in falling order."""
    generation = await subject.engine.generate(subject.base, ask(), 1, Sampling(max_tokens=6, seed=3, top_logprobs=2))
    for token in generation.tokens[0]:
        logprobs = [logprob for _, logprob in token.top]
        assert len(logprobs) == 2
        assert logprobs == sorted(logprobs, reverse=True)
        assert token.logprob <= logprobs[0] + TOLERANCE


async def test_a_stop_string_ends_the_answer(subject: Subject) -> None:
    """The text ends before it; the reason is `stop`."""
    sampling = Sampling(max_tokens=24, seed=11)
    text = (await subject.engine.generate(subject.base, ask(), 1, sampling)).candidates[0].text
    stop = text[len(text) // 2 :][:3]
    stopped = Sampling(max_tokens=24, seed=11, stop=(stop,))
    candidate = (await subject.engine.generate(subject.base, ask(), 1, stopped)).candidates[0]
    assert candidate.text == text[: text.index(stop)]
    assert candidate.finish_reason == "stop"


async def test_an_answer_can_be_cut_by_length(subject: Subject) -> None:
    """With one token allowed an answer that goes on ends by `length`."""
    generation = await subject.engine.generate(subject.base, ask(), 8, Sampling(max_tokens=1, seed=0))
    assert all(len(candidate.token_ids) == 1 for candidate in generation.candidates)
    assert "length" in {candidate.finish_reason for candidate in generation.candidates}


async def test_scores_equal_the_generation(subject: Subject) -> None:
    """Where the text encodes to the sampled ids again, score() gives the log-probabilities of sampling.

    The end-of-turn token is not part of a score.
    """
    compared = 0
    for max_tokens, colour in ((4, "red"), (24, "blue")):
        prompt = ask(colour=colour)
        generation = await subject.engine.generate(subject.base, prompt, 8, Sampling(max_tokens=max_tokens, seed=5))
        for candidate in generation.candidates:
            scored = await subject.engine.score(subject.base, prompt, candidate.text)
            assert len(scored.token_ids) == len(scored.logprobs)
            length = len(candidate.token_ids) - (candidate.finish_reason == "stop")
            if scored.token_ids == candidate.token_ids[:length]:
                compared += 1
                assert scored.logprobs == pytest.approx(candidate.logprobs[:length], abs=TOLERANCE)
    assert compared > 0


@pytest.mark.parametrize("answer", ["", "\n", " end ", "im_end", "\nA red circle.", "a red circle, 世界 é 🙂"])
async def test_odd_answers_are_scored_in_full(subject: Subject, answer: str) -> None:
    """White space, words of the template and other scripts: the same text gives the same tokens, none lost."""
    scored = await subject.engine.score(subject.base, ask(), answer)
    longer = await subject.engine.score(subject.base, ask(), "x" + answer)
    assert bool(scored.token_ids) == bool(answer)
    assert len(longer.token_ids) >= max(1, len(scored.token_ids))
    assert all(logprob <= 0 for logprob in scored.logprobs)


async def test_given_answers_are_encoded_as_they_are_scored(subject: Subject) -> None:
    """The prompt's ids are those of a generation, image placeholders expanded; an answer's are those of its score."""
    answers = ["a red circle", " end ", "世界 é"]
    encoded = await subject.engine.encode(ask(), answers)
    generation = await subject.engine.generate(subject.base, ask(), 1, Sampling(max_tokens=1))
    assert encoded.prompt_token_ids == generation.prompt_token_ids
    for answer, token_ids in zip(answers, encoded.answers, strict=True):
        assert token_ids == (await subject.engine.score(subject.base, ask(), answer)).token_ids


async def test_an_answer_that_does_not_fit_is_told_apart(subject: Subject) -> None:
    """Behind its prompt, or with a prompt that is too long by itself."""
    for prompt, answer in ((ask(), "a red circle and " * 1500), (ask("a red circle and " * 1000), "yes")):
        with pytest.raises(PromptTooLong):
            await subject.engine.encode(prompt, ["short", answer])


async def test_an_unknown_model_is_told_apart(subject: Subject) -> None:
    """Unknown names, and names that could lead out of the adapter directory, in every call."""
    for model in ("no-such-adapter", "../adapters", ""):
        with pytest.raises(UnknownModel):
            await subject.engine.generate(model, ask(), 1, Sampling(max_tokens=4))
        with pytest.raises(UnknownModel):
            await subject.engine.score(model, ask(), "a red circle")
        with pytest.raises(UnknownModel):
            [delta async for delta in subject.engine.stream(model, ask(), Sampling(max_tokens=4))]


async def test_a_prompt_that_does_not_fit_is_told_apart(subject: Subject) -> None:
    """Too many prompt tokens, or a length limit beyond the context, in every call."""
    long = ask("a red circle and " * 1000)
    for prompt, sampling in ((long, Sampling(max_tokens=4)), (ask(), Sampling(max_tokens=100_000))):
        with pytest.raises(PromptTooLong):
            await subject.engine.generate(subject.base, prompt, 1, sampling)
        with pytest.raises(PromptTooLong):
            [delta async for delta in subject.engine.stream(subject.base, prompt, sampling)]
    with pytest.raises(PromptTooLong):
        await subject.engine.score(subject.base, long, "a red circle")


async def test_a_stream_is_the_same_answer_in_pieces(subject: Subject) -> None:
    """Texts, ids and log-probabilities join to the answer; the first piece has the prompt, the last the reason."""
    sampling = Sampling(max_tokens=16, seed=21)
    whole = await subject.engine.generate(subject.base, ask(), 1, sampling)
    answer = whole.candidates[0]
    pieces = [delta async for delta in subject.engine.stream(subject.base, ask(), sampling)]
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(id_ for piece in pieces for id_ in piece.token_ids) == answer.token_ids
    logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
    assert logprobs == pytest.approx(answer.logprobs, abs=TOLERANCE)
    assert [bool(piece.prompt_token_ids) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[0].prompt_token_ids == whole.prompt_token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [answer.finish_reason]


ENDS = (",", ".", " a", " is")
"""Where answers pause in these tests: common in what both models say."""


async def test_an_answer_goes_on_from_its_beginning(subject: Subject) -> None:
    """What is added has the ids and log-probabilities of its place in the whole answer; the prompt's ids stay."""
    engine, sampling = subject.engine, Sampling(max_tokens=24, seed=2, top_logprobs=1, certainty_top_k=2)
    begun = await engine.extend(subject.base, ask(), Beginning(ends=ENDS), 4, sampling)
    paused = [one for one in begun.candidates if one.finish_reason == STEP]
    assert paused
    compared = 0
    for one in paused:
        assert any(one.text.endswith(end) or end in one.text for end in ENDS)
        assert len(one.token_ids) == len(one.logprobs) == len(one.alternatives)
        beginning = Beginning(one.text, one.token_ids)
        if not await engine.can_extend(beginning):
            continue
        rest = await engine.extend(subject.base, ask(), beginning, 2, sampling)
        assert rest.prompt_token_ids == begun.prompt_token_ids
        assert len(rest.tokens) == 2
        for added in rest.candidates:
            assert added.finish_reason in {"stop", "length"}
            scored = await engine.score(subject.base, ask(), one.text + added.text)
            own = len(added.token_ids) - (added.finish_reason == "stop")
            if scored.token_ids == one.token_ids + added.token_ids[:own]:
                compared += 1
                sampled = one.logprobs + added.logprobs[:own]
                assert scored.logprobs == pytest.approx(sampled, abs=TOLERANCE)
    assert compared


async def test_a_beginning_goes_as_far_as_it_is_told(subject: Subject) -> None:
    """Without an end to pause at, to the answer's end; candidate i is drawn with seed + i, as ever."""
    sampling = Sampling(max_tokens=24, seed=5)
    whole = await subject.engine.generate(subject.base, ask(), 3, sampling)
    same = await subject.engine.extend(subject.base, ask(), Beginning(), 3, sampling)
    assert texts(same.candidates) == texts(whole.candidates)
    paused = await subject.engine.extend(subject.base, ask(), Beginning(ends=ENDS), 3, sampling)
    for short, long in zip(paused.candidates, whole.candidates, strict=True):
        assert long.text.startswith(short.text)
        assert long.token_ids[: len(short.token_ids)] == short.token_ids


async def test_what_was_not_sampled_so_is_not_gone_on_from(subject: Subject) -> None:
    """Other ids than the engine reads in the text, also where their text is the same."""
    engine, sampling = subject.engine, Sampling(max_tokens=4, seed=1)
    (one,) = (await engine.extend(subject.base, ask(), Beginning(ends=ENDS), 1, sampling)).candidates
    for wrong in (Beginning(one.text, (7, *one.token_ids)), Beginning(one.text, one.token_ids[1:])):
        assert not await engine.can_extend(wrong)
    with pytest.raises(Retokenised):
        await engine.extend(subject.base, ask(), Beginning(one.text, (7, *one.token_ids)), 1, sampling)


CITY = '{"type":"object","properties":{"city":{"enum":["Oslo","Rome"]}},"required":["city"]}'
TOOLS = (Tool("weather", "The weather now", CITY), Tool("clock", "", '{"type":"object","properties":{}}'))


async def test_an_answer_fits_its_schema(subject: Subject) -> None:
    """Every candidate that came to its end, and a streamed one."""
    sampling = Sampling(max_tokens=64, seed=3, json_schema=CITY)
    generation = await subject.engine.generate(subject.base, ask(), 4, sampling)
    streamed = [delta async for delta in subject.engine.stream(subject.base, ask(), sampling)]
    for text in (*texts(generation.candidates), "".join(delta.text for delta in streamed)):
        assert json.loads(text)["city"] in {"Oslo", "Rome"}
    assert {one.finish_reason for one in generation.candidates} == {"stop"}


async def test_a_forced_call_is_one_of_the_tools(subject: Subject) -> None:
    """As the project reads calls, with arguments that fit the function's schema."""
    prompt = replace(ask(), tools=TOOLS)
    sampling = Sampling(max_tokens=96, seed=3, forced_tools=("weather",))
    generation = await subject.engine.generate(subject.base, prompt, 3, sampling)
    for text in texts(generation.candidates):
        said, ((name, arguments),) = tool_calls.read(text, ["weather", "clock"])
        assert (said, name) == ("", "weather")
        assert json.loads(arguments)["city"] in {"Oslo", "Rome"}


async def test_tools_and_calls_are_part_of_every_prompt(subject: Subject) -> None:
    """Generating, scoring and encoding see the same tokens; without the tools there are fewer."""
    assert await subject.engine.speaks_of_tools()
    turns = (
        *ask().messages,
        Message("assistant", (), (ToolCall("c1", "weather", '{"city": "Oslo"}'),)),
        Message("tool", ("Rain",), tool_call_id="c1"),
    )
    prompt = Prompt(turns, TOOLS)
    generation = await subject.engine.generate(subject.base, prompt, 1, Sampling(max_tokens=8, seed=2))
    candidate = generation.candidates[0]
    assert (await subject.engine.encode(prompt, [])).prompt_token_ids == generation.prompt_token_ids
    assert len((await subject.engine.encode(Prompt(turns), [])).prompt_token_ids) < len(generation.prompt_token_ids)
    scored = await subject.engine.score(subject.base, prompt, candidate.text)
    if scored.token_ids == candidate.token_ids[: len(scored.token_ids)]:  # re-encoded text can differ
        assert scored.logprobs == pytest.approx(candidate.logprobs[: len(scored.logprobs)], abs=TOLERANCE)


async def test_a_token_id_outside_the_vocabulary_is_told_apart(subject: Subject) -> None:
    """Before anything is sampled, in both calls."""
    sampling = Sampling(max_tokens=4, logit_bias=((2**24 + 256, 1.0),))
    with pytest.raises(RefusedParameter, match="logit_bias"):
        await subject.engine.generate(subject.base, ask(), 1, sampling)
    with pytest.raises(RefusedParameter, match="logit_bias"):
        [delta async for delta in subject.engine.stream(subject.base, ask(), sampling)]


async def test_an_adapter_renamed_into_place_is_served_at_once(subject: Subject) -> None:
    """Unknown before, served by the next request, and with other log-probabilities than base."""
    adapter_id = f"contract-{next(_numbers):04d}"
    with pytest.raises(UnknownModel):
        await subject.engine.score(adapter_id, ask(), "a red circle")
    write_random_adapter(subject.adapters_dir, adapter_id, str(subject.model_dir))
    adapted = await subject.engine.score(adapter_id, ask(), "a red circle")
    base = await subject.engine.score(subject.base, ask(), "a red circle")
    assert adapted.token_ids == base.token_ids
    assert abs(adapted.total - base.total) > 10 * TOLERANCE
    generation = await subject.engine.generate(adapter_id, ask(), 2, Sampling(max_tokens=4, seed=0))
    assert {candidate.adapter for candidate in generation.candidates} == {adapter_id}


async def test_a_burst_of_scorings_and_chats_is_exact(subject: Subject) -> None:
    """8 scorings, 3 chats and 2 adapters at once, again and again: every sum as if asked alone."""
    engine, adapters = subject.engine, [subject.publish(seed=seed) for seed in (1, 2)]
    models = [subject.base, *adapters, subject.base]
    jobs = [
        (model, ask(colour=colour), answer)
        for model, colour in zip(models, ("red", "blue", "green", "white"), strict=True)
        for answer in ("a red circle", "There is a blue square and a small green triangle.")
    ]
    alone = [await engine.score(*job) for job in jobs]
    for seed in range(3):
        chats = [engine.generate(model, ask(), 2, Sampling(max_tokens=24, seed=seed)) for model in models[:3]]
        results = await asyncio.gather(*(engine.score(*job) for job in jobs), *chats)
        together = [result for result in results if isinstance(result, ScoredAnswer)]
        assert [scored.token_ids for scored in together] == [scored.token_ids for scored in alone]
        for left, right in zip(together, alone, strict=True):
            assert left.logprobs == pytest.approx(right.logprobs, abs=TOLERANCE)
    assert await engine.is_ready()


async def test_base_stays_base_however_many_adapters_were_loaded(subject: Subject) -> None:
    """A request without an adapter is untouched by those that share its batch, also after a dozen adapters."""
    engine = subject.engine
    alone = await engine.score(subject.base, ask(), "a red cup")
    for seed in range(12):
        adapter = subject.publish(seed=50 + seed)
        scored = await asyncio.gather(
            engine.score(adapter, ask(), "a red cup"),
            *(engine.score(subject.base, ask(), "a red cup") for _ in range(3)),
        )
        for one in scored[1:]:
            assert one.logprobs == pytest.approx(alone.logprobs, abs=TOLERANCE)


async def test_a_cancelled_generation_leaves_the_engine_well(subject: Subject) -> None:
    """Cancelling and leaving a stream early: the next requests are answered as before."""
    engine = subject.engine
    before = await engine.generate(subject.base, ask(), 1, Sampling(max_tokens=8, seed=2))
    long = Sampling(max_tokens=1500, seed=1)
    tasks = [asyncio.create_task(engine.generate(subject.base, ask(), 8, long)) for _ in range(4)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError, Generation}
    stream = engine.stream(subject.base, ask(), long)
    await anext(stream)
    await stream.aclose()
    after = await engine.generate(subject.base, ask(), 1, Sampling(max_tokens=8, seed=2))
    assert texts(after.candidates) == texts(before.candidates)
    assert await engine.is_ready()


async def test_it_tells_its_version(subject: Subject) -> None:
    """A name and a number, stored with every group."""
    name, number = (await subject.engine.version()).split()
    assert name
    assert number[0].isdigit()


async def test_a_closed_client_refuses(tmp_path: Path, subject: Subject) -> None:
    """close() can be called twice; calls afterwards fail as the port's errors."""
    engine = VllmEngine("http://127.0.0.1:9", "base") if isinstance(subject.engine, VllmEngine) else FakeEngine()
    await engine.close()
    await engine.close()
    with pytest.raises(EngineError):
        await engine.generate("base", ask(), 1, Sampling(max_tokens=1))


async def test_an_unloaded_adapter_is_forgotten_and_loaded_again(subject: Subject) -> None:
    """Not listed any more; a request that runs on it goes on; the next one that names it gets the same weights."""
    if isinstance(subject.engine, EnginePool):
        pytest.skip("asked of each replica")
    engine, adapter = subject.engine, subject.publish(seed=90)
    before = await engine.score(adapter, ask(), "a red cup")
    assert adapter in await engine.loaded_adapters()
    stream = engine.stream(adapter, ask(), Sampling(max_tokens=24, seed=1))
    pieces = [(await anext(stream)).text]
    await engine.unload(adapter)
    assert adapter not in await engine.loaded_adapters()
    pieces += [delta.text async for delta in stream]
    again = await engine.generate(adapter, ask(), 1, Sampling(max_tokens=24, seed=1))
    assert "".join(pieces) == again.candidates[0].text
    after = await engine.score(adapter, ask(), "a red cup")
    assert after.logprobs == pytest.approx(before.logprobs, abs=TOLERANCE)
    await engine.unload("never-loaded")
