// The overview: who serves, what the canary shows, how people and rewards take it, who learns.

import { call } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { percent, plural } from "../shared/format.js";
import { learnerFacts, rewardChart, signalChart } from "./activity.js";
import { adapterMoves, wayBack } from "./moves.js";
import { adapterLink, card, empty, factList, table, when } from "./parts.js";
import { runningEvidence } from "./report.js";

export async function load(alias) {
  const [{ data: routings }, activity, { data: audit }, health] = await Promise.all([
    call("GET", "v1/routing"),
    call("GET", "v1/activity", { query: { alias, hours: 24, buckets: 48 } }),
    call("GET", "v1/audit", { query: { limit: 200 } }),
    call("GET", "readyz").catch((error) => ({ status: "unavailable", detail: { service: error.message } })),
  ]);
  const routing = routings.find((one) => one.alias === alias);
  const running = routing.canary
    ? await Promise.all([call("GET", `v1/adapters/${routing.canary}`), call("GET", `v1/adapters/${routing.canary}/report`)])
    : null;
  return { routing, activity, moves: movesOf(audit, alias), health, running };
}

export function draw({ routing, activity, moves, health, running }, reload) {
  return el(
    "div",
    { class: "cards" },
    serving(routing, reload),
    running && canary(running, routing, reload),
    card("Signals, last 24 hours", {}, signalChart(activity) ?? empty("Nobody has said anything yet. Thumbs, choices and corrections show up here.")),
    card("Reward, last 24 hours", {}, rewardChart(activity) ?? empty("No scored answers yet. Rewards come from the alias's scorers, other than the policy's own.")),
    card("Learner", {}, learnerFacts(activity)),
    card("Health", {}, healthFacts(health)),
    card("Routing history", { wide: true }, moves.length ? history(moves) : empty("Routing has not been moved yet: base serves.")),
  );
}

function serving(routing, reload) {
  const share = routing.canary ? routing.canary_share : 0;
  const part = (look, size, name) => {
    const piece = el("span", { class: look, text: size >= 0.2 ? `${name} ${percent(size)}` : "" });
    piece.style.setProperty("--share", `${Math.max(2, size * 100)}%`);
    return piece;
  };
  return card(
    "Serving",
    { wide: true, tools: wayBack(routing, reload) },
    el("p", { class: "serving" }, adapterLink(routing.active)),
    el("div", { class: "traffic", role: "img", "aria-label": `active ${percent(1 - share)}${share ? `, canary ${percent(share)}` : ""}` },
      part("active", 1 - share, "active"),
      share > 0 && part("canary", share, "canary"),
    ),
    factList([
      ["since", when(routing.updated_at)],
      ["generation", String(routing.generation)],
      ["a rollback leads to", adapterLink(routing.previous ?? "base")],
      routing.canary && ["canary", el("span", {}, adapterLink(routing.canary), ` at ${percent(routing.canary_share)} of the users`)],
      routing.shadow && ["shadow", el("span", {}, adapterLink(routing.shadow), ` at ${percent(routing.shadow_share)} of the requests`)],
    ].filter(Boolean)),
    routing.waiting && el("p", { class: "chip warn", text: `Held back: ${routing.waiting}` }),
  );
}

function canary([adapter, report], routing, reload) {
  return card("Canary", { wide: true, tools: adapterMoves(adapter, ["promote", "canary", "reject"], routing, reload) }, ...runningEvidence(report.evidence));
}

function healthFacts({ status, detail }) {
  const names = Object.entries(detail ?? {});
  return factList([["service", el("span", { class: `chip ${status === "ok" ? "good" : "bad"}`, text: status })], ...names]);
}

/** The audit entries that moved the alias's routing, newest first. */
function movesOf(audit, alias) {
  return audit.filter(({ detail }) => detail.after?.alias === alias).slice(0, 12);
}

function history(moves) {
  const rows = moves.map(({ at, actor, action, detail: { after, reason } }) => [
    when(at),
    action.replaceAll("_", " "),
    adapterLink(after.active),
    after.canary ? el("span", {}, adapterLink(after.canary), ` ${percent(after.canary_share)}`) : "–",
    String(after.generation),
    actor,
    reason || "–",
  ]);
  return table(`The last ${plural(moves.length, "move")}`, ["when", "move", "active", "canary", "generation", "who", "why"], rows);
}
