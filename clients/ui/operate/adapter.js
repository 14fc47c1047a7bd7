// One adapter: where it stands and why, and what can be done with it.

import { call } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { number, percent } from "../shared/format.js";
import { adapterMoves } from "./moves.js";
import { adapterLink, card, empty, factList, folded, table, when } from "./parts.js";
import { reportCard, runningEvidence } from "./report.js";
import { badge, movesOf } from "./states.js";

export async function load(alias, id) {
  const name = encodeURIComponent(id);
  const [adapter, report, lineage, { data: audit }, { data: routings }] = await Promise.all([
    call("GET", `v1/adapters/${name}`),
    call("GET", `v1/adapters/${name}/report`),
    call("GET", `v1/adapters/${name}/lineage`),
    call("GET", "v1/audit", { query: { limit: 50, subject: id } }),
    call("GET", "v1/routing"),
  ]);
  return { adapter, report, lineage, audit, routing: routings.find((one) => one.alias === adapter.alias) };
}

export function draw({ adapter, report, lineage, audit, routing }, reload) {
  const { sources = {}, objective = {}, ...manifest } = adapter.manifest ?? {};
  return el(
    "div",
    { class: "cards" },
    el("p", { class: "back" }, el("a", { href: "#/adapters", text: "‹ All adapters" })),
    el(
      "section",
      { class: "card whole", "aria-label": adapter.id },
      el("div", { class: "row between wrap" }, el("h1", {}, el("span", { class: "id", text: adapter.id }), " ", badge(adapter.state)), el("div", { class: "row wrap" }, adapterMoves(adapter, movesOf(adapter.state), routing, reload))),
      adapter.progress && el("p", { class: "chip accent", text: `Gate: ${adapter.progress}` }),
      factList([
        ["alias", adapter.alias],
        ["published", when(adapter.created_at)],
        ["last change", when(adapter.updated_at)],
        ["grown out of", chain(lineage.ancestors)],
        ["grown out of it", lineage.descendants.length ? chain(lineage.descendants) : "nothing"],
        Object.keys(sources).length > 0 && ["learned from", Object.entries(sources).map(([name, count]) => `${name}: ${count}`).join(", ")],
        objective.name && ["objective", String(objective.name)],
      ].filter(Boolean)),
      folded("Manifest", "manifest", { objective, ...manifest }),
    ),
    report.evidence && card("Canary, running", { wide: true }, ...runningEvidence(report.evidence)),
    report.shadow && shadow(report.shadow),
    ...(report.reports.length ? [...report.reports].reverse().map((one, index) => reportCard(one, report.reports.length - index)) : [card("Reports", { wide: true }, empty("Nothing was checked yet."))]),
    card("Decisions", { wide: true }, audit.length ? decisions(audit) : empty("None yet.")),
  );
}

function chain(ids) {
  return el("span", {}, ...ids.flatMap((id, index) => [index ? ", " : null, adapterLink(id)]));
}

function decisions(audit) {
  const rows = audit.map(({ at, actor, action, detail }) => [when(at), action.replaceAll("_", " "), actor, detail.reason || "–"]);
  return table("Decisions, newest first", ["when", "what", "who", "why"], rows);
}

function shadow(found) {
  const difference = (interval) => (interval ? `${number(interval.value)} (${number(interval.low)} to ${number(interval.high)})` : "–");
  return card(
    "Shadow",
    { wide: true },
    el("p", { class: "soft", text: `${found.answers} unseen answers to ${found.users} users, beside ${found.active}.` }),
    factList([
      ["reward, against it", difference(found.reward_difference)],
      ["blocked", `${percent(found.blocked_share)}, of the active one ${percent(found.active_blocked_share)}`],
      ["failed", difference(found.failed_share)],
    ]),
  );
}
