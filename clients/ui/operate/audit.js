// The audit trail: who changed what, newest first.

import { call } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { moment } from "../shared/format.js";
import { card, empty, folded, table } from "./parts.js";

export async function load(alias, subject) {
  const { data } = await call("GET", "v1/audit", { query: { limit: 200, ...(subject && { subject }) } });
  return { entries: data, subject: subject ?? "" };
}

export function draw({ entries, subject }) {
  const filter = el("input", { id: "subject", type: "search", value: subject, placeholder: "adapter, alias or key", "data-key": "subject" });
  const form = el("form", { class: "row wrap", role: "search", on: { submit: (event) => (event.preventDefault(), go(filter.value.trim())) } }, el("label", { for: "subject", class: "soft small", text: "About" }), filter, el("button", { type: "submit" }, "Show"));
  const rows = entries.map(({ id, at, actor, action, subject: about, detail }) => [
    moment(at),
    actor,
    action.replaceAll("_", " "),
    el("span", { class: "id", text: about }),
    detail.reason || "–",
    folded("Detail", `entry-${id}`, detail) ?? "–",
  ]);
  return card("Audit trail", { wide: true, tools: [form] }, rows.length ? table("Audit trail, newest first", ["when", "who", "what", "about", "why", ""], rows) : empty("Nothing was changed yet."));
}

function go(subject) {
  location.hash = subject ? `#/audit/${encodeURIComponent(subject)}` : "#/audit";
}
