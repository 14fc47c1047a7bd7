"""Beside the answer people see one of another policy (`explore = "pilaf"`).

PILAF, Feng et al. 2025, https://arxiv.org/abs/2502.04270: a choice between answers drawn from π⁺ ∝ π (π/π_ref)^β and
π⁻ ∝ π (π_ref/π)^β has the gradient of what people want in the mean.

1. The paper samples from both, token by token. Here π⁺ is the best of the candidates of the adapter that serves, and π⁻
   is the base, or the adapter before it: each a policy that the engine serves as it is.
2. As in the paper a share of the comparisons (one half) is drawn so; the others are of the serving policy alone.

Nobody is served worse: the answer is chosen from the adapter's own candidates, as ever, while the other policy's one is
made at the same time. That one is checked by the rules and not scored: scorers that read the policy's own opinion
cannot compare policies, so it takes part in nothing but the comparison. Where it fails, takes twice as long as the
answer, is blocked, or says the same, the comparison is one of the adapter's own candidates.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from server.engine.port import EngineError
from server.pipeline.asking import Asking
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask, Wave
from server.pipeline.trace import Trace

log = logging.getLogger(__name__)


Waited = Callable[[], Awaitable[Wave]]
"""The other policy's candidate, or nobody's. For when the answer has been chosen: waits no longer than that took."""


@contextlib.asynccontextmanager
async def other_policy(task: ChatTask, asking: Asking, judges: Mapping[str, Judges]) -> AsyncIterator[Waited]:
    """Inside, the other policy's candidate is being made, where the task wants one."""
    if task.beside is None:
        yield _nobody
        return
    by_other = dataclasses.replace(
        task,
        assignment=dataclasses.replace(task.assignment, adapter=task.beside),
        best_of=1,
        rejects_early=False,
        trace=Trace(),  # its time is not the answer's
    )
    making = asyncio.create_task(_made(by_other, asking, judges[task.alias.name]), name="other policy")
    started_s = time.monotonic()

    async def waited() -> Wave:
        done, _ = await asyncio.wait({making}, timeout=time.monotonic() - started_s)
        return making.result() if done else Wave.empty()

    try:
        yield waited
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


async def _nobody() -> Wave:
    return Wave.empty()


async def _made(task: ChatTask, asking: Asking, judges: Judges) -> Wave:
    try:
        made = await asking.ask_again(task)
    except (EngineError, TimeoutError) as error:
        log.warning("%s gave no answer to compare with: %s", task.assignment.adapter, error or type(error).__name__)
        return Wave.empty()
    judgements, _ = await judges.judge(task.prompt, made.candidates)
    return Wave(made, judgements)
