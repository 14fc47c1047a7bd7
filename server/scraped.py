"""Metrics that are read from their source whenever they are scraped: what stands for each alias, a canary's evidence,
and counters that other parts keep for themselves. Series of what is gone are gone with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.adapters.rollout import Rollout
from server.adapters.routing import Router
from server.engine.pool import Member, Standing
from server.store.database import Database


class Scraped(Collector):
    """For `CollectorRegistry.register`. Read on the listener's thread: nothing here changes anything or waits."""

    def __init__(self, *, router: Router, rollout: Rollout, members: Sequence[Member], database: Database) -> None:
        self._router = router
        self._rollout = rollout
        self._members = tuple(members)
        self._database = database

    def collect(self) -> Iterator[Metric]:
        yield self._adapters()
        yield self._evidence()
        yield from self._replicas()
        commits = CounterMetricFamily(
            "plumbline_store_commits", "Transactions committed; writes that wait together share one."
        )
        commits.add_metric([], self._database.commits)
        yield commits

    def _adapters(self) -> Metric:
        info = GaugeMetricFamily(
            "plumbline_adapter_info",
            "Constant 1 for each adapter that routing names.",
            labels=["alias", "adapter", "role"],  # active | previous | canary | shadow
        )
        for routing in self._router.all():
            named = {
                "active": routing.active,
                "previous": routing.previous,
                "canary": routing.canary,
                "shadow": routing.shadow,
            }
            for role, adapter in named.items():
                if adapter is not None:
                    info.add_metric([routing.alias, adapter, role], 1)
        return info

    def _evidence(self) -> Metric:
        evidence = GaugeMetricFamily(
            "plumbline_canary_evidence_ratio",
            "Evidence of the running canary as a share of what is needed: at 1 it is shown.",
            labels=["alias", "metric", "shows"],  # harm | non_inferiority
        )
        for routing in self._router.all():
            run = self._rollout.evidence(routing.alias)
            if run is None:
                continue
            trial = run.trial
            for name, metric in trial.metrics.items():
                evidence.add_metric([routing.alias, name, "harm"], metric.harm.highest / trial.harm_needed)
                shown = metric.non_inferiority.highest / trial.needed
                evidence.add_metric([routing.alias, name, "non_inferiority"], shown)
        return evidence

    def _replicas(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "plumbline_engine_restarts", "How often the engine was started again.", labels=["replica"]
        )
        taken_out = CounterMetricFamily(
            "plumbline_replica_taken_out",
            "How often it was taken out for not being reached, or not serving an adapter as it should.",
            labels=["replica", "reason"],
        )
        for member in self._members:
            number = str(member.number)
            restarts.add_metric([number], member.supervisor.restarts)
            for reason in (Standing.UNREACHABLE, Standing.CANNOT_SERVE):
                taken_out.add_metric([number, reason], member.taken_out[reason])
        yield restarts
        yield taken_out
