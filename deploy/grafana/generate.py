"""Writes Grafana's dashboards: `python -m deploy.grafana.generate`. The JSON files beside it are what Grafana reads.

A dashboard is rows of panels, a panel a question with its queries. Each opens with what people notice and goes on to
causes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import BigValueColorMode, LegendDisplayMode, LegendPlacement

DIRECTORY: Final = Path(__file__).resolve().parent / "dashboards"
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="prometheus")
HEIGHT: Final = 7
OF_ALIAS: Final = 'alias=~"$alias"'


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot; with `is_now` a large number. `queries`: (PromQL, legend)."""

    title: str
    words: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    is_now: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    words: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    has_alias: bool = True


def rate(metric: str, by: str = "", where: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{where}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def quantiles(metric: str, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, metric, where=where), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


CHAT: Final = 'route="/v1/chat/completions"'

SERVICE: Final = Board(
    "plumbline-service",
    "Plumbline: service",
    "Whether people get answers, how fast, and what holds them up.",
    (
        (
            "What people notice",
            (
                Panel("Replicas in", "Engines that get requests.", (("sum(plumbline_replica_in)", ""),), "none", 4, True),
                Panel("Store", "1 while what is written is confirmed.", (("min(plumbline_store_healthy)", ""),), "none", 4, True),
                Panel("Requests failing", "Share of 5xx.", (("plumbline:request_errors:ratio_rate5m or vector(0)", ""),), "percentunit", 4, True),
                Panel("Chat, 95th percentile", "From the first byte asked to the last answered.", (("plumbline:chat_duration_seconds:p95_rate5m", ""),), "s", 4, True),
                Panel("In flight", "Chat requests inside or waiting.", (("sum(plumbline_requests_in_flight)", ""),), "none", 4, True),
                Panel("Disk free", "Where the state lies.", (("min(plumbline_disk_free_bytes / plumbline_disk_size_bytes)", ""),), "percentunit", 4, True),
                Panel("Requests", "By route.", (("plumbline:requests:rate5m", "{{route}}"),), "reqps"),
                Panel("By status", "4xx are callers' mistakes and limits, 5xx ours.", ((rate("plumbline_requests_total", "status"), "{{status}}"),), "reqps"),
                Panel("Refusals and failures", "By the error's code.", ((rate("plumbline_errors_total", "code"), "{{code}}"),), "reqps"),
            ),
        ),
        (
            "Time",
            (
                Panel("Chat requests", "Whole time of an answer.", quantiles("plumbline_request_duration_seconds", CHAT), "s"),
                Panel("Time to first token", "Of streamed answers.", quantiles("plumbline_time_to_first_token_seconds", OF_ALIAS), "s"),
                Panel("Stages, 95th percentile", "Which part takes the time.", ((quantile(0.95, "plumbline_stage_duration_seconds", "stage", OF_ALIAS), "{{stage}}"),), "s"),
                Panel("Overhead", "Outside the queue, the engine and the scorers.", quantiles("plumbline_overhead_seconds"), "s"),
                Panel("Until durable", "From the answer to its commit.", quantiles("plumbline_store_write_seconds"), "s"),
                Panel("Event loop's lag", "What everybody waits when something holds it up.", quantiles("plumbline_event_loop_lag_seconds"), "s"),
            ),
        ),
        (
            "Load",
            (
                Panel("Queue", "Requests that wait, and how many may.", (("sum(plumbline_requests_waiting)", "waiting"), ("sum(plumbline_requests_waiting_limit)", "limit"))),
                Panel("Tokens", "Generated: of all candidates.", ((rate("plumbline_prompt_tokens_total", "", OF_ALIAS), "prompts"), (rate("plumbline_generated_tokens_total", "", OF_ALIAS), "generated"))),
                Panel("Candidates for a request", "`best_of` as it was used.", quantiles("plumbline_request_candidates", OF_ALIAS)),
                Panel("Images", "Fetched or decoded, or waiting for it.", (("sum(plumbline_images_waiting)", "waiting"),)),
                Panel("Image bytes held", "By open requests.", (("sum(plumbline_image_bytes_in_flight)", "bytes"),), "bytes"),
                Panel("Image fetches", "By what became of them.", ((rate("plumbline_image_fetches_total", "outcome"), "{{outcome}}"),), "ops"),
            ),
        ),
        (
            "Engine",
            (
                Panel("Replicas", "1: it gets requests.", (("plumbline_replica_in", "{{replica}} in"), ("plumbline_engine_probe_success", "{{replica}} generates"))),
                Panel("Outstanding tokens", "What each replica still owes.", (("plumbline_replica_outstanding_tokens", "{{replica}}"),)),
                Panel("Restarts and removals", "In the last hour.", (("increase(plumbline_engine_restarts_total[1h])", "{{replica}} started"), ("increase(plumbline_replica_taken_out_total[1h])", "{{replica}} {{reason}}"))),
                Panel("vLLM: sequences", "In work and waiting.", (("sum by (instance) (vllm:num_requests_running)", "{{instance}} running"), ("sum by (instance) (vllm:num_requests_waiting)", "{{instance}} waiting"))),
                Panel("vLLM: cache in use", "Near 1 sequences are put off.", (("vllm:kv_cache_usage_perc", "{{instance}}"),), "percentunit"),
                Panel("vLLM: prefix cache hits", "Share of prompt tokens; candidates share their prompt.", ((f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}", "hits"),), "percentunit"),
            ),
        ),
        (
            "State",
            (
                Panel("Disk", "Free, and what is kept in reserve.", (("plumbline_disk_free_bytes", "free"), ("plumbline_disk_reserve_bytes", "reserve")), "bytes"),
                Panel("Database", "Without its log.", (("plumbline_store_size_bytes", "{{instance}}"),), "bytes"),
                Panel("Images kept", "Counted by the hourly sweep.", (("plumbline_stored_images", "{{instance}}"),)),
                Panel("Commits", "Writes that wait together share one.", ((rate("plumbline_store_commits_total"), "commits"), (rate("plumbline_store_errors_total"), "refused")), "ops"),
                Panel("Memory", "Resident, of the server.", (('process_resident_memory_bytes{job="plumbline"}', "{{instance}}"),), "bytes"),
                Panel("Open files", "Of the server.", (('process_open_fds{job="plumbline"}', "open"), ('process_max_fds{job="plumbline"}', "limit"))),
            ),
        ),
    ),
)  # fmt: skip

LEARNING: Final = Board(
    "plumbline-learning",
    "Plumbline: learning",
    "What people say, whether scorers agree with them, and what the learner makes of it.",
    (
        (
            "Signals",
            (
                Panel("Signals", "Of people, by kind, an hour.", ((f"sum by (kind) (increase(plumbline_feedback_total{{{OF_ALIAS}}}[1h]))", "{{kind}}"),), "short", 12),
                Panel("Pairs without people", "From safety verdicts and the ensemble, an hour.", ((f"sum by (source) (increase(plumbline_automatic_pairs_total{{{OF_ALIAS}}}[1h]))", "{{source}}"),), "short", 12),
                Panel("Agreement with people", "Share of a day's comparisons; one half is a coin.", ((f"plumbline:reward_agreement:ratio_increase1d{{{OF_ALIAS}}}", "{{alias}} {{scorer}}"),), "percentunit"),
                Panel("Comparisons", "A day, by how the scorer sees them.", ((f"sum by (scorer, verdict) (increase(plumbline_reward_agreement_total{{{OF_ALIAS}}}[1d]))", "{{scorer}} {{verdict}}"),)),
                Panel("Feedback by status", "What is refused is lost.", ((rate("plumbline_requests_total", "status", 'route=~"/v1/(feedback|preferences)"'), "{{status}}"),), "reqps"),
            ),
        ),
        (
            "Rewards and safety",
            (
                Panel("Reward of shown answers", "Median, by scorer.", ((quantile(0.5, "plumbline_reward_score", "scorer", OF_ALIAS), "{{scorer}}"),)),
                Panel("Candidates", "By what became of them.", ((rate("plumbline_candidates_total", "outcome", OF_ALIAS), "{{outcome}}"),), "ops"),
                Panel("Degraded", "Share of answers without this scorer.", ((f"plumbline:degraded:ratio_rate10m{{{OF_ALIAS}}}", "{{alias}} {{part}}"),), "percentunit"),
                Panel("Rules", "Requests and candidates to which one applied.", ((rate("plumbline_rule_hits_total", "rule, action", OF_ALIAS), "{{rule}} {{action}}"),), "ops"),
                Panel("Blocked", "Candidates, by rule.", ((rate("plumbline_rule_blocks_total", "rule", OF_ALIAS), "{{rule}}"),), "ops"),
                Panel("Rule failures", "Should be nothing.", ((rate("plumbline_rule_failures_total", "rule", OF_ALIAS), "{{rule}}"),), "ops"),
                Panel("Stepwise: given up", "Sentences that the engine reads as other tokens.", ((rate("plumbline_stepwise_dropped_total", "alias", OF_ALIAS), "{{alias}}"),), "ops"),
            ),
        ),
        (
            "Learner",
            (
                Panel("Last sign of life", "Seconds ago.", ((f"time() - plumbline_learner_heartbeat_timestamp_seconds{{{OF_ALIAS}}}", "{{alias}}"),), "s"),
                Panel("Feed", "Entries that the learner has not read.", ((f"plumbline_feed_head{{{OF_ALIAS}}} - on (alias, instance) plumbline_feed_position{{{OF_ALIAS}}}", "{{alias}}"),)),
                Panel("Feed's lag", "Age of the oldest unread entry.", ((f"plumbline_feed_lag_seconds{{{OF_ALIAS}}}", "{{alias}}"),), "s"),
                Panel("Rounds", "A day, by outcome.", ((f"sum by (alias, outcome) (increase(plumbline_learner_rounds_total{{{OF_ALIAS}}}[1d]))", "{{alias}} {{outcome}}"),)),
                Panel("Round's progress", "Of the present or last round.", ((f"plumbline_learner_progress{{{OF_ALIAS}}}", "{{alias}}"),), "percentunit"),
                Panel("Signals in the round", "", ((f"plumbline_learner_signals{{{OF_ALIAS}}}", "{{alias}}"),)),
                Panel("Loss", "Of the last step.", ((f"plumbline_learner_loss{{{OF_ALIAS}}}", "{{alias}}"),)),
                Panel("KL to the reference", "Nats.", ((f"plumbline_learner_kl{{{OF_ALIAS}}}", "{{alias}}"),)),
                Panel("Accuracy", "Share of pairs on whose side the policy is.", ((f"plumbline_learner_accuracy{{{OF_ALIAS}}}", "{{alias}}"),), "percentunit"),
                Panel("Margins", "Of pairs and of single ratings.", ((f"plumbline_learner_margin{{{OF_ALIAS}}}", "{{alias}} pairs"), (f"plumbline_learner_unpaired_margin{{{OF_ALIAS}}}", "{{alias}} ratings"))),
                Panel("Log-probabilities", "Both falling: likelihood is displaced.", ((f"plumbline_learner_chosen_logprob{{{OF_ALIAS}}}", "{{alias}} chosen"), (f"plumbline_learner_rejected_logprob{{{OF_ALIAS}}}", "{{alias}} rejected"))),
                Panel("Gradient and rate", "Norm before clipping; learning rate.", ((f"plumbline_learner_grad_norm{{{OF_ALIAS}}}", "{{alias}} norm"), (f"plumbline_learner_learning_rate{{{OF_ALIAS}}}", "{{alias}} rate"))),
            ),
        ),
    ),
)  # fmt: skip

ADAPTERS: Final = Board(
    "plumbline-adapters",
    "Plumbline: adapters",
    "Who serves whom, what the gate found, how a canary stands.",
    (
        (
            "Who serves",
            (
                Panel("Routing", "Adapters that routing names, by role.", ((f"plumbline_adapter_info{{{OF_ALIAS}}}", "{{alias}} {{role}}: {{adapter}}"),), "none", 12),
                Panel("Generation", "Grows by one with each move.", ((f"plumbline_routing_generation{{{OF_ALIAS}}}", "{{alias}}"),), "none", 12),
                Panel("Moves", "A day, by the state that an adapter came to.", ((f"sum by (alias, state) (increase(plumbline_adapter_moves_total{{{OF_ALIAS}}}[1d]))", "{{alias}} {{state}}"),)),
                Panel("Time of a move, 95th percentile", "Until requests follow it.", ((quantile(0.95, "plumbline_adapter_move_seconds", "action"), "{{action}}"),), "s"),
                Panel("Waiting", "1: a start or promotion is held back; `plumbline routing` says why.", ((f"plumbline_rollout_waiting{{{OF_ALIAS}}}", "{{alias}}"),)),
            ),
        ),
        (
            "Examinations",
            (
                Panel("Outcomes", "A day, of probes and gates.", ((f"sum by (examination, outcome) (increase(plumbline_adapter_examinations_total{{{OF_ALIAS}}}[1d]))", "{{examination}} {{outcome}}"),), "short", 12),
                Panel("Time, 95th percentile", "", ((quantile(0.95, "plumbline_adapter_examination_seconds", "examination"), "{{examination}}"),), "s", 12),
            ),
        ),
        (
            "Canary and shadow",
            (
                Panel("Share", "Of the users.", ((f"plumbline_canary_share_ratio{{{OF_ALIAS}}}", "{{alias}}"),), "percentunit"),
                Panel("Answers", "That count as evidence.", ((f"plumbline_canary_answers{{{OF_ALIAS}}}", "{{alias}}"),)),
                Panel("Shadows", "Requests drawn, by what became of them.", ((rate("plumbline_shadows_total", "alias, outcome", OF_ALIAS), "{{alias}} {{outcome}}"),), "ops"),
                Panel("Evidence of harm", "At 1 the canary is rolled back.", ((f'plumbline_canary_evidence_ratio{{{OF_ALIAS},shows="harm"}}', "{{alias}} {{metric}}"),), "percentunit", 12),
                Panel("Evidence of no harm", "At 1 it is shown; all that are asked for: promoted.", ((f'plumbline_canary_evidence_ratio{{{OF_ALIAS},shows="non_inferiority"}}', "{{alias}} {{metric}}"),), "percentunit", 12),
            ),
        ),
    ),
)  # fmt: skip

BOARDS: Final = (SERVICE, LEARNING, ADAPTERS)


def build(board: Board) -> str:
    """The dashboard's JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.words)
        .tags(["plumbline"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("Plumbline").type(models.DashboardLinkType.DASHBOARDS).tags(["plumbline"]))
    )
    if board.has_alias:
        names = dashboard.QueryVariable("alias").label("Alias").datasource(SOURCE).multi(True).include_all(True)
        made = made.with_variable(
            names.query("label_values(plumbline_routing_generation, alias)")
            .all_value(".*")
            .current(models.VariableOption(text="All", value="$__all", selected=True))
        )
    numbers = itertools.count(1)
    for title, panels in board.rows:
        made = made.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            made = made.with_panel((_now(panel) if panel.is_now else _plot(panel)).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _plot(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    made = timeseries.Panel().title(panel.title).description(panel.words).unit(panel.unit).datasource(SOURCE)
    made = made.height(HEIGHT).span(panel.width).fill_opacity(8).legend(legend.show_legend(True))
    if panel.unit in {"s", "bytes", "percentunit", "ops", "reqps"}:
        made = made.min(0)
    for number, (expression, words) in enumerate(panel.queries):
        made = made.with_target(_query(number, expression, words))
    return made


def _now(panel: Panel) -> stat.Panel:
    made = stat.Panel().title(panel.title).description(panel.words).unit(panel.unit).datasource(SOURCE)
    made = made.height(4).span(panel.width).color_mode(BigValueColorMode.NONE)
    for number, (expression, words) in enumerate(panel.queries):
        made = made.with_target(_query(number, expression, words))
    return made


def _query(number: int, expression: str, words: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + number)).datasource(SOURCE)
    return query.legend_format(words) if words else query


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for board in BOARDS:
        (DIRECTORY / f"{board.uid}.json").write_text(build(board))


if __name__ == "__main__":
    main()
