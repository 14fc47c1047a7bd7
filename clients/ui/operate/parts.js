// Small parts of the console's pages: cards, tables, facts.

import { el } from "../shared/dom.js";
import { ago, moment } from "../shared/format.js";

export function card(title, props, ...children) {
  const { tools, wide } = props ?? {};
  return el(
    "section",
    { class: `card${wide ? " whole" : ""}`, "aria-label": title },
    el("div", { class: "row between wrap" }, el("h2", { text: title }), tools && el("div", { class: "row wrap" }, tools)),
    ...children,
  );
}

/** `rows`: lists of texts or elements. A table that is too wide scrolls by itself, also by keyboard. */
export function table(caption, columns, rows) {
  return el(
    "div",
    { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", { class: "hidden", text: caption }),
      el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col", text: name })))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell ?? "–"))))),
    ),
  );
}

/** `facts`: [[name, text or element]]. */
export function factList(facts) {
  return el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", { text: name }), el("dd", {}, value ?? "–")]));
}

export function empty(text) {
  return el("p", { class: "soft empty", text });
}

export function when(at) {
  return el("time", { dateTime: new Date(at * 1000).toISOString(), title: moment(at), text: ago(at) });
}

export function adapterLink(id) {
  if (!id || id === "base") return id === "base" ? "base" : "–";
  return el("a", { href: `#/adapters/${encodeURIComponent(id)}`, class: "id", text: id });
}

/** A body of JSON as facts, folded away. `key` keeps it open when the page is drawn again. */
export function folded(title, key, body) {
  const rows = Object.entries(body).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
  if (!rows.length) return null;
  return el("details", { "data-key": key }, el("summary", { text: title }), factList(rows.map(([name, text]) => [name, text.length > 600 ? `${text.slice(0, 600)}…` : text])));
}
