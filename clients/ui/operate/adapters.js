// All adapters of the alias: their lineage as a graph, and the list.

import { call } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { lineageGraph } from "./lineage.js";
import { adapterLink, card, empty, table, when } from "./parts.js";
import { badge } from "./states.js";

export async function load(alias) {
  const [{ data: routings }, { data: adapters }] = await Promise.all([
    call("GET", "v1/routing"),
    call("GET", "v1/adapters", { query: { alias } }),
  ]);
  return { routing: routings.find((one) => one.alias === alias), adapters };
}

export function draw({ routing, adapters }) {
  const kept = adapters.filter(({ state }) => state !== "ephemeral");
  if (!kept.length) return card("Adapters", { wide: true }, empty("No adapter yet. The learner uploads one after its first round; `plumbline import` and the API take others."));
  const serving = { [routing.active]: "active", ...(routing.canary && { [routing.canary]: "canary" }) };
  const rows = [...kept].reverse().map((one) => [
    adapterLink(one.id),
    el("span", {}, badge(one.state), one.progress && el("span", { class: "soft small", text: ` ${one.progress}` })),
    adapterLink(one.parent),
    when(one.created_at),
    when(one.updated_at),
  ]);
  return el(
    "div",
    { class: "cards" },
    card("Lineage", { wide: true }, lineageGraph(kept, serving)),
    card("Adapters", { wide: true }, table("Adapters, newest first", ["adapter", "state", "grown out of", "published", "last change"], rows)),
  );
}
