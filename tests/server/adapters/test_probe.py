"""Does the engine serve what the learner made?"""

from __future__ import annotations

from typing import Any

import pytest

from reward.types import Prompt
from server.adapters.probe import Prober
from server.engine.port import EngineError, UnknownModel
from server.store import schema
from server.store.records import AdapterRecord, GroupRecord
from tests.server.adapters.support import World


def moved(model: str, prompt: Prompt, piece: str) -> float:
    return -0.5 if model == "base" else -0.4


async def fingerprint(world: World, adapter_value: float, base_value: float, count: int = 3) -> list[dict[str, Any]]:
    """What a learner would have computed: values for each token of stored answers of three tokens."""
    groups: list[GroupRecord] = [await world.store_group(f"What {number}?") for number in range(count)]
    return [
        {
            "group_id": group.id,
            "candidate_id": group.candidates[0].id,
            "logprob": 3 * adapter_value,
            "base_logprob": 3 * base_value,
        }
        for group in groups
    ]


async def probed(world: World, **manifest: Any) -> tuple[str, dict[str, str], str]:
    record: AdapterRecord = await world.upload(**manifest)
    result = await Prober(world.database, world.blobs).run(world.engine, record)
    return result.outcome, {check.name: check.outcome for check in result.checks}, result.reason


async def test_the_learners_own_values_are_found_again(world: World) -> None:
    """Equal under the adapter, equal under base, and the two differ: the engine serves this adapter."""
    world.engine.token_logprob = moved
    outcome, checks, _ = await probed(world, fingerprint=await fingerprint(world, -0.4, -0.5))
    assert outcome == "passed"
    assert checks == {"fingerprint": "passed", "base_fingerprint": "passed", "differs_from_base": "passed"}


async def test_an_adapter_that_does_nothing_is_caught(world: World) -> None:
    """The engine took it and answers as base: with the learner's values and without."""
    world.engine.token_logprob = lambda model, prompt, piece: -0.5
    outcome, checks, _ = await probed(world, fingerprint=await fingerprint(world, -0.4, -0.5))
    assert (outcome, checks["fingerprint"], checks["differs_from_base"]) == ("failed", "failed", "failed")
    outcome, checks, reason = await probed(world)
    assert (outcome, checks) == ("failed", {"differs_from_base": "failed"})
    assert "changes nothing" in reason


@pytest.mark.parametrize(
    ("adapter_value", "base_value", "failing"), [(-0.3, -0.5, "fingerprint"), (-0.4, -0.6, "base_fingerprint")]
)
async def test_a_difference_between_training_and_serving_is_caught(
    adapter_value: float, base_value: float, failing: str, world: World
) -> None:
    """A stale cache, another base model, another image size: the values tell."""
    world.engine.token_logprob = moved
    outcome, checks, reason = await probed(world, fingerprint=await fingerprint(world, adapter_value, base_value))
    assert (outcome, checks[failing]) == ("failed", "failed")
    assert "disagree" in reason


async def test_rounding_is_no_difference(world: World) -> None:
    """Within the tolerance of two float32 computations."""
    world.engine.token_logprob = moved
    outcome, _, _ = await probed(world, fingerprint=await fingerprint(world, -0.403, -0.497))
    assert outcome == "passed"


async def test_answers_that_are_encoded_otherwise_are_not_compared(world: World) -> None:
    """Where the text's tokens are not the sampled ones, the learner's value speaks of something else."""
    world.engine.token_logprob = moved
    wrong = await fingerprint(world, -9.0, -9.0, count=1)
    right = await fingerprint(world, -0.4, -0.5, count=1)
    await world.database.write(
        lambda c: c.execute(
            schema.candidates.update()
            .where(schema.candidates.c.id == wrong[0]["candidate_id"])
            .values(token_ids=b"\x01\x00\x00\x00" * 4)
        )
    )
    outcome, _, _ = await probed(world, fingerprint=wrong + right)
    assert outcome == "passed"


async def test_without_stored_answers_neutral_ones_serve(world: World) -> None:
    """A foreign adapter on an empty installation: still asked whether it changes anything."""
    world.engine.token_logprob = moved
    unknown = [{"group_id": "cmpl-gone", "candidate_id": "cmpl-gone.0", "logprob": -1.0, "base_logprob": -1.0}]
    assert (await probed(world))[0] == "passed"
    assert (await probed(world, fingerprint=unknown))[0] == "passed"


async def test_an_adapter_that_the_engine_does_not_load_fails(world: World) -> None:
    """Unknown to the engine: rejected, not tried for ever; an engine that is away is tried again later."""
    world.engine.fail_next(UnknownModel("no such adapter"))
    outcome, checks, _ = await probed(world)
    assert (outcome, checks) == ("failed", {"loads": "failed"})
    world.engine.fail_next(EngineError("away"))
    with pytest.raises(EngineError):
        await probed(world)
