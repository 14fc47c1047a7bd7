// What was checked of an adapter, drawn: the gate's checks, a canary's evidence, a round's curves.

import { el } from "../shared/dom.js";
import { moment, number } from "../shared/format.js";
import { asked, curve, evidence, strip } from "./charts.js";
import { card, empty, folded } from "./parts.js";

const MAX_CURVES = 12;
const LOOKS = { passed: "good", promote: "good", uploaded: "good", failed: "bad", rollback: "bad" };

/** One stored report as a card. */
export function reportCard(report, index) {
  const { kind, outcome, body, created_at: at } = report;
  const { checks, curve: curves, words, reason, metrics, ...rest } = body;
  return card(
    `${kind[0].toUpperCase()}${kind.slice(1)}`,
    { wide: true, tools: [el("span", { class: `chip ${LOOKS[outcome] ?? ""}`, text: outcome }), el("span", { class: "soft small", text: moment(at) })] },
    reason && el("p", { text: reason }),
    Array.isArray(checks) && el("div", { class: "checks" }, checks.map(check)),
    ...(metrics ? runningEvidence(body) : sentences(words)),
    curves && el("div", { class: "curves" }, roundCurves(curves)),
    folded("More figures", `report-${index}`, rest),
  );
}

function check(one) {
  const interval = typeof one.low === "number" ? ` (${number(one.low)} to ${number(one.high)})` : "";
  const figures = typeof one.value === "number" ? `${number(one.value)}${interval}${asked(one)}, n = ${one.count}` : "";
  const look = { passed: "good", failed: "bad", inconclusive: "warn" }[one.outcome] ?? "";
  return el(
    "div",
    { class: "check" },
    el("p", { class: "row between" }, el("strong", { text: one.name.replaceAll("_", " ") }), el("span", { class: `chip ${look}`, text: one.outcome })),
    strip(one),
    el("p", { class: "soft small", text: [figures, one.detail].filter(Boolean).join(" · ") }),
  );
}

/** A canary's summary: evidence of harm and of being no worse, for each metric, and what it means. */
export function runningEvidence(summary) {
  if (!summary) return [empty("The canary has just begun: no evidence yet.")];
  const bars = Object.entries(summary.metrics ?? {}).map(([name, figures]) =>
    el(
      "div",
      { class: "check" },
      el("strong", { text: name }),
      evidence(name, "no worse", figures.evidence_of_non_inferiority, summary.non_inferiority_needed, false),
      evidence(name, "harm", figures.evidence_of_harm, summary.harm_needed, true),
    ),
  );
  const answers = `${summary.canary_answers} answers by the canary, ${summary.active_answers} by the active one.`;
  return [el("p", { class: "soft", text: answers }), el("div", { class: "checks" }, bars), ...sentences(summary.words)];
}

function sentences(words) {
  return Array.isArray(words) && words.length ? [el("ul", { class: "words" }, words.map((text) => el("li", { text: String(text) })))] : [];
}

/** {name: [values]} as small plots; what is no curve is left out. */
export function roundCurves(curves) {
  return Object.entries(curves)
    .filter(([, values]) => Array.isArray(values) && values.length > 1 && values.every(Number.isFinite))
    .slice(0, MAX_CURVES)
    .map(([name, values]) => curve(name, values));
}
