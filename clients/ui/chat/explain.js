// Why this candidate: every candidate with its scores as bars, its verdicts, its probability, and the reason in words.

import { el } from "../shared/dom.js";
import { number, percent, plural } from "../shared/format.js";

/** A folded panel about an answer; null where the service explained nothing. */
export function explanation(answer) {
  const { alignment } = answer;
  const explained = alignment?.explanation;
  if (!explained?.candidates.length) return null;
  const ranges = scoreRanges(explained.candidates);
  const chosen = answer.choices.map((choice) => choice.candidate);
  return el(
    "details",
    { class: "why" },
    el("summary", {}, "Why this answer"),
    el("p", {}, reasonOf(alignment, explained)),
    el(
      "ol",
      { class: "candidates" },
      explained.candidates
        .map((one, index) => ({ one, index, place: chosen.indexOf(one.candidate_id) }))
        .sort((a, b) => rank(a) - rank(b) || (b.one.total ?? -1e9) - (a.one.total ?? -1e9) || a.index - b.index)
        .map(({ one, index, place }) => candidate(one, index, ranges, place)),
    ),
    el("p", {
      class: "soft small",
      text: "Bars run from the lowest to the highest candidate of this answer. Each scorer has a unit of its own.",
    }),
  );
}

/** What was chosen comes first. */
function rank({ place }) {
  return place < 0 ? 99 : place;
}

function reasonOf(alignment, explained) {
  const made = `${plural(alignment.generated, "candidate")} by ${alignment.adapter}, chosen by ${alignment.selection}: `;
  const failed = alignment.degraded?.length ? ` Without ${alignment.degraded.join(", ")}, which failed.` : "";
  return `${made}${explained.reason}.${failed}`.replace("..", ".");
}

/** {scorer: [least, most]} over all candidates, the total first. */
function scoreRanges(candidates) {
  const ranges = new Map();
  for (const one of candidates) {
    for (const [name, value] of figures(one)) {
      const [low, high] = ranges.get(name) ?? [Infinity, -Infinity];
      ranges.set(name, [Math.min(low, value), Math.max(high, value)]);
    }
  }
  return ranges;
}

function figures(one) {
  const scores = Object.entries(one.scores).filter(([, value]) => value !== null);
  const total = one.total === null || one.total === undefined ? [] : [["total", one.total]];
  return [...total, ...scores];
}

function candidate(one, index, ranges, place) {
  const verdicts = Object.entries(one.verdicts).filter(([, action]) => action !== "allow");
  const isBlocked = verdicts.some(([, action]) => action === "block" || action === "critique_and_revise");
  const state = place === 0 ? "chosen" : place > 0 ? "shown beside it" : isBlocked ? "blocked" : "not chosen";
  return el(
    "li",
    { class: `candidate${place === 0 ? " chosen" : ""}${isBlocked ? " blocked" : ""}` },
    el(
      "p",
      { class: "row between" },
      el("strong", { text: `Candidate ${index + 1}` }),
      el("span", { class: "soft", text: `${state} · probability ${percent(one.probability)}` }),
    ),
    el("p", { class: "said", text: textOf(one, isBlocked) }),
    el("dl", { class: "scores" }, figures(one).map(([name, value]) => bar(name, value, ranges.get(name)))),
    verdicts.length > 0 &&
      el("p", { class: "chips" }, verdicts.map(([rule, action]) => el("span", { class: "chip bad", text: `${rule}: ${action.replaceAll("_", " ")}` }))),
  );
}

function textOf(one, isBlocked) {
  if (one.text) return one.text;
  return isBlocked ? "A rule blocked it; its text is not shown." : "It was given up half-way.";
}

function bar(name, value, [low, high]) {
  const isAlone = high === low; // one value for all says nothing about any of them
  const fill = el("span", { class: "fill" });
  fill.style.setProperty("--share", isAlone ? "0%" : `${4 + (96 * (value - low)) / (high - low)}%`);
  return [
    el("dt", { text: name }),
    el("dd", {}, el("span", { class: "track", "aria-hidden": "true" }, fill), el("span", { class: "figure", text: number(value) })),
  ];
}
