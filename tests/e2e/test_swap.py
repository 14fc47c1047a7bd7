"""Adapters come and go under load: nothing is refused, and every answer says who gave it."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import ALIAS, Service, upload_random_adapter, wait_for_state
from tests.e2e.test_openai_client import messages
from tests.engine_fixture import EngineSession

pytestmark = pytest.mark.engine

PROMPT = messages(seed=11)


class Crowd:
    """Clients that ask the same greedy question for as long as they are let."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.answers: list[tuple[str, int, str]] = []
        self.failures: list[Exception] = []
        self._service = service
        self._clients = clients
        self._go_on = True

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._ask(index)) for index in range(self._clients)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._go_on = False
        await asyncio.gather(*self._tasks)

    async def _ask(self, index: int) -> None:
        client = self._service.async_openai()
        asked = 0
        while self._go_on:
            asked += 1
            try:
                reply = await client.chat.completions.create(
                    model=ALIAS, messages=PROMPT, temperature=0, max_tokens=16, user=f"u{index}-{asked % 8}"
                )
            except Exception as error:
                self.failures.append(error)
                continue
            alignment = reply.plumbline
            self.answers.append((alignment["adapter"], alignment["generation"], reply.choices[0].message.content))


async def test_a_swap_under_load_refuses_nothing(
    service: Service, engine_session: EngineSession, tmp_path: Path
) -> None:
    """Upload, probe, gate, canary, promotion, rollback, undo: no failed request, and the answers follow."""
    with service.operator() as operator:
        before = operator.routing().data[0].active  # tests share the state; it need not be base
    async with Crowd(service) as crowd:
        await asyncio.sleep(1.0)
        first = await asyncio.to_thread(upload_random_adapter, service, engine_session, tmp_path, seed=101, scale=0.3)
        await wait_for_state(service, first, "active")
        second = await asyncio.to_thread(upload_random_adapter, service, engine_session, tmp_path, seed=102, scale=0.3)
        await wait_for_state(service, second, "active")
        with service.operator() as operator:
            generation = operator.rollback().generation
            assert operator.routing().data[0].active == first
            await asyncio.sleep(1.0)
            assert operator.undo_rollback().active == second
        await asyncio.sleep(1.0)

    assert crowd.failures == []
    texts: dict[str, Counter[str]] = {}
    for adapter, _, text in crowd.answers:
        texts.setdefault(adapter, Counter())[text] += 1
    assert set(texts) == {before, first, second}
    for one, other in itertools.combinations(texts.values(), 2):
        assert not set(one) & set(other), "no adapter ever gives another one's answer: none is stale"
    assert {adapter for adapter, at, _ in crowd.answers if at == generation} == {first}


async def test_an_adapter_that_changes_nothing_is_refused_by_the_probe(
    service: Service, engine_session: EngineSession, tmp_path: Path
) -> None:
    """The silent no-op never reaches anyone."""
    service.openai().chat.completions.create(model=ALIAS, messages=PROMPT, max_tokens=8)  # something to probe with
    silent = await asyncio.to_thread(upload_random_adapter, service, engine_session, tmp_path, seed=103, scale=0.0)
    await wait_for_state_rejected(service, silent)
    with service.operator() as operator:
        kinds = {report["kind"]: report["outcome"] for report in operator.adapter_report(silent).reports}
        assert kinds["probe"] == "failed"
        assert operator.routing().data[0].active != silent


async def wait_for_state_rejected(service: Service, adapter: str) -> None:
    with service.operator() as operator:
        for _ in range(300):
            if operator.adapter(adapter).state == "rejected":
                return
            await asyncio.sleep(0.1)
    pytest.fail("not rejected within 30 s")
