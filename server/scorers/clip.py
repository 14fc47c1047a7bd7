"""Likeness of image and text by a CLIP or SigLIP: the cosine of their embeddings, from a worker process.

The server itself imports no model code. Requests that wait while the worker computes share its next batch. A worker
that dies or hangs is started again, after a pause that doubles while it does not help. The queue is bounded, and what
nobody waits for any more is not computed.

A prompt without images has no likeness: all its answers get 0. Of several images the one that fits best counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import fmean
from typing import Any

from reward.types import Candidate, Prompt
from server.config.scorers import ClipConfig
from server.engine.guard import end_group
from server.scorers import clip_worker
from server.scorers.errors import ScorerError

MAX_SENTENCES = 32
"""Of one answer; what comes behind is not looked at."""
MAX_FRAME_BYTES = 4 * 1024 * 1024
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


class ClipScorer:
    def __init__(self, config: ClipConfig, worker: ClipWorker, name: str = "clip") -> None:
        self.name = name
        self.version = sha256(f"{config.model} {config.unit}".encode()).hexdigest()[:12]
        self._unit = config.unit
        self._worker = worker

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        if not prompt.images:
            return [0.0] * len(candidates)
        parts = [self._parts(one.text) for one in candidates]
        texts = list(dict.fromkeys(text for one in parts for text in one))
        if not texts:
            return [None] * len(candidates)
        images = [image.data for image in {image.sha256: image for image in prompt.images}.values()]
        likeness = dict(zip(texts, await self._worker.compare(images, texts), strict=True))
        combine = fmean if self._unit == "sentence_mean" else min
        return [combine([likeness[text] for text in one]) if one else None for one in parts]

    def _parts(self, text: str) -> list[str]:
        if self._unit == "answer":
            return [text.strip()] if text.strip() else []
        return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()][:MAX_SENTENCES]


@dataclass(frozen=True, slots=True)
class _Job:
    images: list[bytes]
    texts: list[str]
    answer: asyncio.Future[list[float]]


class ClipWorker:
    """One worker process, started when it is first needed. For one event loop. `timeout_s`: of one batch."""

    def __init__(self, config: ClipConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(config.max_waiting)
        self._process: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[None] | None = None
        self._pause_s = 0.0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """Of the running worker."""
        return None if self._process is None else self._process.pid

    async def compare(self, images: list[bytes], texts: list[str]) -> list[float]:
        """For each text its cosine with the image that it is likest; raises `ScorerError`."""
        if self._running is None:
            self._running = asyncio.create_task(self._work(), name="clip")
        job = _Job(images, texts, asyncio.get_running_loop().create_future())
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise ScorerError(f"{self._config.max_waiting} requests wait already") from None
        return await job.answer

    async def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        while not self._jobs.empty():
            _fail([self._jobs.get_nowait()], "the worker was ended")
        await self._end()

    async def _work(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            while len(batch) < self._config.max_batch and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            batch = [job for job in batch if not job.answer.done()]  # the others gave up
            if batch:
                try:
                    await self._compute(batch)
                except Exception as error:
                    await self._end()
                    self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
                    self._start_at = time.monotonic() + self._pause_s
                    reason = str(error) if isinstance(error, ScorerError) else "the worker died"
                    _fail(batch, reason)
                except asyncio.CancelledError:
                    _fail(batch, "the worker was ended")
                    raise

    async def _compute(self, batch: list[_Job]) -> None:
        if self._process is None:
            if time.monotonic() < self._start_at:
                # Nobody is kept waiting for a worker that keeps dying.
                return _fail(batch, "the worker died, and is not yet started again")
            await self._start()
        found = await self._ask(batch)
        self._pause_s = 0.0
        for job, values in zip(batch, found, strict=True):
            if job.answer.done():
                continue
            if values is None:
                job.answer.set_exception(ScorerError("the worker cannot read the images"))
            else:
                job.answer.set_result(values)
        return None

    async def _start(self) -> None:
        config = self._config
        self._process = await asyncio.create_subprocess_exec(
            *(config.python or sys.executable, "-I", clip_worker.__file__),
            *(config.model, config.device, str(config.threads)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")},
            start_new_session=True,
        )
        await self._read(config.start_timeout_s, "the worker did not load its model in time")

    async def _ask(self, batch: list[_Job]) -> list[list[float] | None]:
        assert self._process is not None
        assert self._process.stdin is not None
        described = [{"images": [len(image) for image in job.images], "texts": job.texts} for job in batch]
        encoded = json.dumps({"jobs": described}).encode()
        blobs = b"".join(image for job in batch for image in job.images)
        self._process.stdin.write(struct.pack(">I", len(encoded)) + encoded + blobs)
        reply = await self._read(self._timeout_s, "the worker did not answer in time")
        found = reply.get("jobs")
        if not isinstance(found, list) or len(found) != len(batch):
            raise ScorerError("the worker gave something else than was asked for")
        for job, values in zip(batch, found, strict=True):
            if values is not None and not (isinstance(values, list) and len(values) == len(job.texts)):
                raise ScorerError("the worker gave something else than was asked for")
        return [None if one is None or not all(map(math.isfinite, one)) else one for one in found]

    async def _read(self, timeout_s: float, late: str) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                (length,) = struct.unpack(">I", await self._process.stdout.readexactly(4))
                if length > MAX_FRAME_BYTES:
                    raise ScorerError("the worker wrote something that is no frame")
                frame = json.loads(await self._process.stdout.readexactly(length))
        except TimeoutError:
            raise ScorerError(late) from None
        if not isinstance(frame, dict):
            raise ScorerError("the worker wrote something that is no frame")
        return frame

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        end_group(process.pid)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 5.0)


def _fail(batch: list[_Job], reason: str) -> None:
    for job in batch:
        if not job.answer.done():
            job.answer.set_exception(ScorerError(reason))
