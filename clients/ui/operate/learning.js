// Learning: what people said, what rewards say, whether scorers and rules agree with people, what the learner does.

import { ApiError, call } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { number, percent, plural } from "../shared/format.js";
import { learnerFacts, rewardChart, signalChart } from "./activity.js";
import { adapterLink, card, empty, folded, table, when } from "./parts.js";
import { roundCurves } from "./report.js";

const HOURS = 24 * 7;

export async function load(alias) {
  const [activity, rounds] = await Promise.all([
    call("GET", "v1/activity", { query: { alias, hours: HOURS, buckets: 84 } }),
    loadRounds(alias),
  ]);
  return { activity, rounds };
}

/** The newest rounds; of the newest one also what its learner told. A service that keeps no list of them has none. */
async function loadRounds(alias) {
  try {
    const { data } = await call("GET", "v1/rounds", { query: { alias, limit: 20 } });
    const newest = data.length ? await call("GET", `v1/rounds/${data[0].id}`) : null;
    return { list: data, newest };
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

export function draw({ activity, rounds }) {
  return el(
    "div",
    { class: "cards" },
    card("Signals, last 7 days", {}, signalChart(activity) ?? empty("Nobody has said anything yet.")),
    card("Reward, last 7 days", {}, rewardChart(activity) ?? empty("No scored answers yet.")),
    card("Learner", {}, learnerFacts(activity)),
    card("By adapter", {}, activity.adapters.length ? byAdapter(activity.adapters) : empty("No answers yet.")),
    card("Scorers and people", {}, agreement(activity.scorers)),
    card("Rules and people", {}, activity.rules.length ? rules(activity.rules) : empty("No rule has looked at an answer yet.")),
    rounds && card("Rounds", { wide: true }, ...(rounds.list.length ? roundList(rounds) : [empty("No round yet. The learner begins one when enough was said.")])),
    !activity.is_whole && el("p", { class: "soft small", text: "Of the newest 2,000 answers; older ones are left out." }),
  );
}

function byAdapter(adapters) {
  const rows = adapters.map(({ adapter, answers, reward, up, down }) => [adapterLink(adapter), answers.toLocaleString("en"), number(reward), String(up), String(down)]);
  return table("Answers by adapter", ["adapter", "answers", "mean reward", "up", "down"], rows);
}

function agreement(scorers) {
  const compared = scorers.filter((one) => one.compared > 0);
  if (!compared.length) return empty("Nobody has compared answers yet. A choice between two tells how often a scorer agrees.");
  return el(
    "div",
    {},
    el("ul", { class: "agreement" }, compared.map(scorer)),
    el("p", { class: "soft small", text: "How often the answer that people prefer scores higher. Half is chance; the line is the 95% interval." }),
  );
}

function scorer({ scorer: name, share, low, high, compared }) {
  const track = el("span", { class: "range", "aria-hidden": "true" }, el("span", { class: "half" }), el("span", { class: "span" }), el("span", { class: "point" }));
  for (const [property, value] of [["--low", low], ["--high", high], ["--at", share]]) track.style.setProperty(property, `${value * 100}%`);
  return el("li", {}, el("span", { class: "row between" }, el("strong", { text: name }), el("span", { class: "soft", text: `${percent(share)} of ${plural(compared, "pair")}` })), track);
}

function rules(found) {
  const rows = found.map(({ rule, judged, applied, up, down }) => [
    rule,
    judged.toLocaleString("en"),
    Object.entries(applied).map(([action, count]) => `${action.replaceAll("_", " ")} ${count}`).join(", ") || "never",
    up + down ? `${up} up, ${down} down` : "–",
  ]);
  return table("Rules", ["rule", "looked at", "applied", "people, where it was shown"], rows);
}

function roundList({ list, newest }) {
  const rows = list.map((one) => [when(one.created_at), one.outcome, adapterLink(one.adapter), one.signals === null ? "–" : String(one.signals ?? "–"), one.seconds ? `${number(one.seconds)} s` : "–", one.reason || "–"]);
  const { curve: curves, ...rest } = newest.detail;
  return [
    table("Rounds, newest first", ["when", "outcome", "adapter", "signals", "took", "why"], rows),
    curves && el("div", { class: "curves" }, roundCurves(curves)),
    folded("The newest round", "round", rest),
  ];
}
