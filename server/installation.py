"""Puts the parts together: opens the state, connects the engine, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

from reward.types import Prompt
from server.adapters.gate import rewards
from server.adapters.gate.gate import Gate
from server.adapters.gate.suites import SuiteError
from server.adapters.lease import RoutingLease
from server.adapters.mirror import AdapterMirror
from server.adapters.probe import Prober
from server.adapters.registry import AdapterRegistry
from server.adapters.replicas import ReplicaProber
from server.adapters.rollout import Rollout
from server.adapters.routing import Router
from server.adapters.unloading import Unloader
from server.answers import AnswerIntake
from server.budgets import Budgets
from server.config import AliasConfig, Config
from server.engine.client import VllmEngine
from server.engine.health import EngineState
from server.engine.launcher import EngineProcess
from server.engine.pool import EnginePool, Member
from server.engine.port import Engine, Replica
from server.engine.supervisor import EngineSupervisor
from server.errors import StorageUnavailable
from server.exchange.importing import ImportDesk
from server.feedback import FeedbackDesk
from server.inflight import InFlight
from server.keys import KeyRing
from server.metrics import Metrics
from server.pipeline.admission import Admission
from server.pipeline.assemble import assemble
from server.pipeline.fetch.fetcher import ImageFetcher
from server.pipeline.judges import Judges, as_combined, build_ensemble, build_judges
from server.pipeline.media import MediaIntake
from server.pipeline.pipeline import Pipeline
from server.pipeline.policies import read_rules
from server.pipeline.sanitise import Sanitiser, special_tokens
from server.pipeline.shadow import Shadows
from server.pipeline.vision import takes_images
from server.retention import Retention
from server.rollouts import RolloutDesk
from server.sampling import Sampler
from server.scorers.factory import ScorerFactory
from server.scraped import Scraped
from server.services import Services
from server.store import groups
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.opening import open_blobs, open_database, open_remote_files
from server.store.records import AdapterState
from server.store.remote import RemoteFiles
from server.tokens import Signer, load_secret
from server.tracing import Tracing, open_tracing
from server.wire.chat import ChatMessage, ToolDefinition
from server.wire.identity import directory_digest

log = logging.getLogger(__name__)

RECALLED_GROUPS = 512
"""Newest groups of an alias from whose scores the calibration learns at the start."""

Connect = Callable[[Config], Sequence[tuple[Replica, EngineSupervisor]]]
"""How an installation gets its engine replicas."""


class StartError(Exception):
    """Why the service cannot start, in one line."""


def lock_state(directory: Path) -> IO[str]:
    """Hold the state directory for this process alone; raises `StartError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"{directory} is in use by another server") from None
    except OSError as error:
        raise StartError(f"{directory}: {error.strerror}") from None
    return lock


async def start_database(database: Database) -> None:
    """Migrate and start; raises `StartError`."""
    try:
        await database.start()
    except StorageUnavailable as error:
        raise StartError(f"the database cannot be opened: {error.cause}") from error


async def open_files(config: Config) -> tuple[RemoteFiles | None, BlobStore]:
    """The shared store, where one is set, and the place of images; raises `StartError`."""
    try:
        remote = open_remote_files(config.store)
        if remote is not None:
            await remote.write("in-use", b"")  # a wrong address, bucket or credential shows now, not at the first image
        return remote, await asyncio.to_thread(open_blobs, config.store, remote)
    except ValueError as error:
        raise StartError(f"store.blobs: {error}") from None
    except StorageUnavailable as error:
        raise StartError(f"store.blobs: {error.cause}") from error
    except OSError as error:
        raise StartError(f"{config.store.directory}: {error.strerror}") from None


def connect_engines(config: Config) -> list[tuple[Replica, EngineSupervisor]]:
    """Each replica's client and who watches it: processes of ours, or engines that run elsewhere."""
    settings, directory = config.engine, config.store.directory
    if settings.urls:
        return [_replica(config, url, None) for url in settings.urls]
    processes = [
        EngineProcess(
            settings, directory / "adapters", directory / "logs", max_images=config.chat.max_images, number=number
        )
        for number in range(settings.replicas)
    ]
    return [_replica(config, process.url, process) for process in processes]


def _replica(config: Config, url: str, process: EngineProcess | None) -> tuple[Replica, EngineSupervisor]:
    settings = config.engine
    engine = VllmEngine(
        url,
        settings.model,
        timeout_s=config.chat.engine_timeout_s,
        probe_timeout_s=settings.probe_timeout_s,
        kept_adapter=lambda: process.kept_adapter if process else "",
    )
    supervisor = EngineSupervisor(
        engine,
        process,
        probe_interval_s=settings.probe_interval_s,
        start_timeout_s=settings.start_timeout_s,
    )
    return engine, supervisor


class Installation:
    """Everything behind the API, opened and closed in order."""

    def __init__(self, config: Config, connect: Connect = connect_engines) -> None:
        self._config = config
        self._connect = connect
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> Services:
        """Open the state, then start the engine in the background; raises `StartError`."""
        config, directory = self._config, self._config.store.directory
        lock = await asyncio.to_thread(lock_state, directory)
        self._stack.callback(lock.close)
        base_digest = model_digest(config.engine.model)
        metrics = Metrics(aliases=[alias.name for alias in config.aliases], version=version("plumbline"))
        database = open_database(config.store)
        self._stack.push_async_callback(database.close)
        await start_database(database)
        remote, blobs = await open_files(config)
        is_shared = bool(config.store.url.get_secret_value())
        if is_shared and not config.secret:
            log.warning("store.url without secret: other servers on this database will refuse this one's tokens")
        secret = config.secret.get_secret_value().encode() if config.secret else load_secret(directory)

        registry = build_registry(config, database, remote, base_digest=base_digest, on_move=metrics.moved)
        await registry.start()
        engine = EnginePool(self._connect(config), affinity_factor=config.engine.affinity_factor)
        self._stack.push_async_callback(engine.close)
        scorers = self._open_scorers(engine)
        judges = await self._open_judges(scorers, database)
        prober = ReplicaProber(
            engine,
            Prober(database, blobs),
            routings=lambda: router.all(),  # noqa: PLW0108 - each is made with the other
            find=registry.get,
            quorum=config.engine.quorum,
        )

        router = Router(
            database,
            [alias.name for alias in config.aliases],
            clock=time.time,
            verify=registry.verify,
            is_intact=registry.is_intact,
            on_move=metrics.moved,
            on_moved=metrics.followed,
            moving_to=prober.moving_to,
        )
        await router.load()
        self._stack.push_async_callback(router.stop)
        try:
            await router.heal()
        except StorageUnavailable as error:
            raise StartError(f"an adapter cannot be fetched: {error.cause}") from error

        async def arrive(adapter: str) -> None:
            await registry.verify(adapter)  # fetches what another server published
            await prober.arrive(adapter)

        lease = RoutingLease(
            database,
            router,
            [alias.name for alias in config.aliases],
            lease_s=config.store.routing_lease_s if is_shared else 0.0,
            arrive=arrive,
        )
        rollout = Rollout(
            database=database,
            registry=registry,
            router=router,
            prober=prober,
            gates=await asyncio.to_thread(load_gates, config, database, blobs, engine, judges, scorers=scorers),
            aliases=config.aliases,
            engines=[engine],
            clock=time.time,
            on_examined=metrics.examined,
        )
        intake = await self._open_intake(metrics)
        sanitiser = Sanitiser(special_tokens(Path(config.engine.model)))

        signer = Signer(secret)

        async def assembler(messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition]) -> Prompt:
            return await assemble(messages, tools, config.chat, intake, sanitiser)

        answers = AnswerIntake({name: one.policy for name, one in judges.items()}, sanitiser.clean)
        in_flight = InFlight(
            config.chat.feedback_wait_s, promised_at=signer.promised_at if is_shared else None, clock=time.time
        )
        keys = KeyRing(database, clock=time.time, monotonic=time.monotonic)
        self._stack.push_async_callback(keys.stop)
        admission = Admission(concurrent=config.http.max_concurrent_requests, queued=config.http.max_queued_requests)
        shadows = Shadows(
            engine=engine,
            database=database,
            judges=judges,
            routing=router.current,
            metrics=metrics,
            settings=config.shadow,
            is_busy=lambda: admission.present > config.shadow.busy_requests,
            timeout_s=config.chat.engine_timeout_s,
        )
        self._stack.push_async_callback(shadows.stop)
        pipeline = Pipeline(
            engine=engine,
            database=database,
            blobs=blobs,
            judges=judges,
            in_flight=in_flight,
            shadows=shadows,
            metrics=metrics,
            base_digest=base_digest,
            engine_timeout_s=config.chat.engine_timeout_s,
            rng=random.Random(),  # noqa: S311 - which answer is compared is no secret
            clean=sanitiser.clean,
        )
        services = Services(
            config=config,
            started_at=int(time.time()),
            base_digest=base_digest,
            database=database,
            blobs=blobs,
            engine=engine,
            registry=registry,
            router=router,
            lease=lease,
            rollout=rollout,
            keys=keys,
            budgets=Budgets(config.limits, monotonic=time.monotonic),
            admission=admission,
            assembler=assembler,
            in_flight=in_flight,
            pipeline=pipeline,
            feedback=FeedbackDesk(
                config=config,
                database=database,
                blobs=blobs,
                engine=engine,
                intake=answers,
                in_flight=in_flight,
                metrics=metrics,
                clock=time.time,
            ),
            importing=ImportDesk(
                database=database,
                blobs=blobs,
                engine=engine,
                assembler=assembler,
                intake=answers,
                signer=signer,
                metrics=metrics,
                base_digest=base_digest,
                clock=time.time,
            ),
            rollout_desk=RolloutDesk(
                config=config,
                database=database,
                blobs=blobs,
                registry=registry,
                router=router,
                pipeline=pipeline,
                metrics=metrics,
                is_busy=lambda: admission.present > config.rollouts.busy_requests,
                clock=time.time,
            ),
            signer=signer,
            metrics=metrics,
            feed_positions={},
            tracing=self._open_tracing(),
        )
        self._watch(services)
        await self._begin(services, prober)
        return services

    async def _begin(self, services: Services, prober: ReplicaProber) -> None:
        """What goes on beside the requests, until `close`."""
        services.engine.start(prober.live, prober.prove)
        self._stack.push_async_callback(services.engine.stop)
        unloader = Unloader(
            services.engine, live=prober.live, find=lambda states: services.registry.find(states=states)
        )
        unloader.start()
        self._stack.push_async_callback(unloader.stop)
        await services.lease.start()
        self._stack.push_async_callback(services.lease.stop)
        await services.rollout.start()
        self._stack.push_async_callback(services.rollout.stop)
        count_images = services.metrics.stored_images.set
        retention = Retention(self._config.store, services.database, services.blobs, time.time, count_images)
        retention.start()
        self._stack.push_async_callback(retention.stop)
        sampler = Sampler(
            services.metrics,
            services.database,
            directory=self._config.store.directory,
            aliases=[alias.name for alias in self._config.aliases],
            positions=services.feed_positions.get,
            clock=time.time,
        )
        sampler.start()
        self._stack.push_async_callback(sampler.stop)

    def _open_tracing(self) -> Tracing:
        try:
            tracing = open_tracing(self._config.tracing, version("plumbline"))
        except ValueError as error:
            raise StartError(str(error)) from None
        self._stack.push_async_callback(asyncio.to_thread, tracing.close)
        return tracing

    def _open_scorers(self, engine: Engine) -> ScorerFactory:
        scorers = ScorerFactory(engine)
        self._stack.push_async_callback(scorers.close)
        return scorers

    async def _open_judges(self, scorers: ScorerFactory, database: Database) -> dict[str, Judges]:
        judges = build_all_judges(self._config, scorers)
        for name, one in judges.items():
            self._stack.push_async_callback(one.close)
            if one.ensemble.calibration is None:
                continue
            try:
                scores = await database.read(partial(groups.recent_scores, alias=name, limit=RECALLED_GROUPS))
                one.ensemble.recall(scores)
            except (StorageUnavailable, ValueError, TypeError):  # a damaged file is for `check` to tell of
                log.warning("%s: the calibration starts anew", name, exc_info=True)
        return judges

    async def _open_intake(self, metrics: Metrics) -> MediaIntake:
        config = self._config
        try:
            fetcher = ImageFetcher(
                config.image_fetch,
                max_bytes=config.chat.max_image_bytes,
                count=lambda outcome: metrics.image_fetches.labels(outcome).inc(),
            )
        except OSError as error:
            raise StartError(f"image_fetch.ca_file: {error.strerror or 'no PEM file of certificates'}") from None
        self._stack.push_async_callback(fetcher.close)
        vision = config.engine.vision
        intake = MediaIntake(
            config.chat,
            fetcher,
            has_vision=takes_images(config.engine.model) if vision is None else vision,
            fetches_per_request=config.image_fetch.max_concurrent_per_request,
        )
        self._stack.callback(intake.close)
        metrics.images_waiting.set_function(lambda: float(intake.waiting))
        metrics.image_bytes.set_function(lambda: float(intake.budget.used_bytes))
        return intake

    async def close(self) -> None:
        await self._stack.aclose()

    def _watch(self, services: Services) -> None:
        """Metrics that are read when they are scraped."""
        metrics = services.metrics
        for member in services.engine.members:
            _watch_replica(metrics, member)
        metrics.store_healthy.set_function(lambda: float(services.database.is_healthy))
        metrics.in_flight.set_function(lambda: float(services.admission.present))
        metrics.waiting.set_function(lambda: float(services.admission.waiting))
        metrics.queue_limit.set(self._config.http.max_queued_requests)
        metrics.disk_reserve_bytes.set(self._config.store.min_free_bytes)
        for alias in self._config.aliases:
            _watch_routing(metrics, services.router, services.rollout, alias.name)
            rules = [one.name for one in (*read_rules(alias.policy), *alias.rules)]
            metrics.begin(alias.name, rules=rules, scorers=[one.label for one in alias.scorers])
        scraped = Scraped(
            router=services.router,
            rollout=services.rollout,
            members=services.engine.members,
            database=services.database,
        )
        metrics.registry.register(scraped)


def build_registry(
    config: Config,
    database: Database,
    remote: RemoteFiles | None,
    *,
    base_digest: str,
    on_move: Callable[[str, AdapterState], None] = lambda alias, state: None,
) -> AdapterRegistry:
    """The adapters of the state directory and the shared store. Not started yet."""
    adapters = config.store.directory / "adapters"
    return AdapterRegistry(
        database,
        adapters,
        config.store.directory / "uploads",
        engine_model=config.engine.model,
        base_digest=base_digest,
        max_lora_rank=config.engine.max_lora_rank,
        aliases=[alias.name for alias in config.aliases],
        clock=time.time,
        min_free_bytes=config.store.min_free_bytes,
        on_move=on_move,
        mirror=AdapterMirror(remote, adapters) if remote else None,
    )


def build_all_judges(config: Config, scorers: ScorerFactory) -> dict[str, Judges]:
    """Each alias's judges; raises `StartError` where a policy, rule or scorer cannot be built."""
    try:
        return {alias.name: build_judges(alias, scorers) for alias in config.aliases}
    except ValueError as error:
        raise StartError(str(error)) from None


def load_gates(
    config: Config,
    database: Database,
    blobs: BlobStore,
    engine: Engine,
    judges: Mapping[str, Judges],
    *,
    scorers: ScorerFactory,
) -> dict[str, Gate]:
    """Each alias's gate with its suites; raises `StartError` where a suite cannot be read."""

    def load(alias: AliasConfig) -> Gate:
        return Gate.load(
            database,
            blobs,
            engine,
            alias,
            read=judges[alias.name].policy.judge,
            ensemble=as_combined(build_ensemble(rewards.judging(alias.scorers), scorers), alias),
        )

    try:
        return {alias.name: load(alias) for alias in config.aliases}
    except SuiteError as error:
        raise StartError(str(error)) from None


def model_digest(model: str) -> str:
    """Identity of the base model: of its files where they are local, else of its name."""
    directory = Path(model)
    return directory_digest(directory) if directory.is_dir() else hashlib.sha256(model.encode()).hexdigest()


def _watch_replica(metrics: Metrics, member: Member) -> None:
    number = str(member.number)
    metrics.engine_ready.labels(number).set_function(lambda: float(member.supervisor.state is EngineState.READY))
    metrics.replica_in.labels(number).set_function(lambda: float(member.is_in))
    metrics.replica_tokens.labels(number).set_function(lambda: float(member.outstanding_tokens))


def _watch_routing(metrics: Metrics, router: Router, rollout: Rollout, alias: str) -> None:
    metrics.routing_generation.labels(alias).set_function(lambda: float(router.current(alias).generation))
    metrics.canary_share.labels(alias).set_function(lambda: router.current(alias).canary_share)
    metrics.canary_answers.labels(alias).set_function(lambda: float(rollout.canary_answers(alias)))
    metrics.rollout_waiting.labels(alias).set_function(lambda: float(rollout.waiting(alias) is not None))
