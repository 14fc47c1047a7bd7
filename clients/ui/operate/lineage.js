// Which adapter grew out of which, as a graph: generations from left to right, siblings below each other.

import { el, svg } from "../shared/dom.js";
import { shortId } from "../shared/format.js";

const NODE = { width: 158, height: 46 };
const STEP = { x: 200, y: 62 };

/** [{id, parent, state, depth, row}] with base first. A parent that is not known counts as base. Pure. */
export function layout(adapters) {
  const known = new Set(adapters.map(({ id }) => id));
  const children = new Map();
  for (const one of adapters) {
    const parent = known.has(one.parent) ? one.parent : "base";
    children.set(parent, [...(children.get(parent) ?? []), one]);
  }
  const placed = [];
  let rows = 0;
  const place = (node, depth) => {
    const below = children.get(node.id) ?? [];
    const at = { ...node, depth, row: rows };
    placed.push(at);
    below.forEach((child, index) => {
      if (index) rows += 1;
      place(child, depth + 1);
    });
  };
  place({ id: "base", parent: null, state: "base" }, 0);
  return placed;
}

/** The graph; each adapter is a link to its page. `serving`: {id: "active" | "canary" …} marks those in routing. */
export function lineageGraph(adapters, serving) {
  const nodes = layout(adapters);
  const at = new Map(nodes.map((node) => [node.id, node]));
  const width = (Math.max(...nodes.map(({ depth }) => depth)) + 1) * STEP.x - (STEP.x - NODE.width) + 4;
  const height = (Math.max(...nodes.map(({ row }) => row)) + 1) * STEP.y - (STEP.y - NODE.height) + 4;
  const edges = nodes.filter(({ id }) => id !== "base").map((node) => edge(at.get(node.parent) ?? at.get("base"), node));
  const drawing = svg(
    "svg",
    { viewBox: `-2 -2 ${width} ${height}`, width, height, role: "group", "aria-label": "Lineage of the adapters" },
    ...edges,
    ...nodes.map((node) => drawn(node, serving[node.id])),
  );
  return el("div", { class: "scroll lineage", tabIndex: 0, role: "region", "aria-label": "Lineage" }, drawing);
}

function edge(from, to) {
  const [x1, y1] = [from.depth * STEP.x + NODE.width, from.row * STEP.y + NODE.height / 2];
  const [x2, y2] = [to.depth * STEP.x, to.row * STEP.y + NODE.height / 2];
  const middle = x2 - (STEP.x - NODE.width) / 2;
  return svg("path", { class: "edge", d: `M${x1},${y1}H${middle - 6}C${middle},${y1} ${middle},${y2} ${middle + 6},${y2}H${x2}` });
}

function drawn(node, place) {
  const state = node.id === "base" ? (place ? "serves" : "") : node.state.replace("_", " ");
  const shape = [
    svg("title", {}, `${node.id}${state ? `, ${state}` : ""}`),
    svg("rect", { ...NODE, rx: 10 }),
    svg("text", { class: "name", x: 12, y: 19 }, shortId(node.id)),
    svg("text", { class: "state", x: 12, y: 36 }, state || "base model"),
  ];
  const attributes = { class: `node ${node.state}${place ? " serving" : ""}`, transform: `translate(${node.depth * STEP.x},${node.row * STEP.y})` };
  if (node.id === "base") return svg("g", attributes, ...shape);
  return svg("a", { ...attributes, href: `#/adapters/${encodeURIComponent(node.id)}`, "aria-label": `${node.id}, ${state}` }, ...shape);
}
