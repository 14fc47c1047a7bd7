// The parts that the overview and the page of learning share: curves of the last hours, and who trains.

import { el } from "../shared/dom.js";
import { number, percent, plural } from "../shared/format.js";
import { lines, stacks } from "./charts.js";
import { empty, factList, when } from "./parts.js";

const SIGNALS = [
  ["thumbs up", "good", ["up"]],
  ["thumbs down", "bad", ["down"]],
  ["choices", "one", ["choice", "ranking", "tie"]],
  ["corrections and comments", "two", ["correction", "comment", "regenerate"]],
];

export function signalChart({ buckets }) {
  const at = buckets.map((one) => one.at);
  const series = SIGNALS.map(([name, look, kinds]) => ({
    name,
    look,
    values: buckets.map(({ signals }) => kinds.reduce((sum, kind) => sum + (signals[kind] ?? 0), 0)),
  }));
  return stacks("Signals over time", at, series);
}

export function rewardChart({ buckets }) {
  const at = buckets.map((one) => one.at);
  return lines("Mean reward over time", at, [{ name: "mean reward of the answers", look: "one", values: buckets.map((one) => one.reward ?? null) }]);
}

/** Who trains, and what it last said. */
export function learnerFacts({ learner, feed_head: head }) {
  if (!learner) return empty(`No learner has come yet. The training feed has ${plural(head, "entry", "entries")}.`);
  const isHeld = learner.lease_expires_at > Date.now() / 1000;
  const values = Object.entries(learner.values).map(([name, value]) => [name.replaceAll("_", " "), name === "progress" ? percent(value) : number(value)]);
  return factList([
    ["state", el("span", { class: `chip ${isHeld ? "good" : "warn"}`, text: isHeld ? "at work" : "away" })],
    ["who", learner.owner],
    ["last sign of life", learner.heartbeat_at ? when(learner.heartbeat_at) : "none since this server started"],
    ["training feed", plural(head, "entry", "entries")],
    ...values,
  ]);
}
