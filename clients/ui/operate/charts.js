// Small plots as SVG: over time, intervals against margins, evidence against what is asked for. Nothing is said by colour
// alone: outcomes are written beside it, series are named at their side.

import { el, svg } from "../shared/dom.js";
import { clock, moment, number } from "../shared/format.js";

const WIDTH = 420;
const HEIGHT = 150;
const LEFT = 38;
const BOTTOM = 22;
const TOP = 10;

/** `series`: [{name, look, values}], one value (or null) for each time of `at`; drawn as lines on one scale. */
export function lines(title, at, series) {
  const known = series.flatMap(({ values }) => values).filter((value) => value !== null);
  if (!known.length) return null;
  const marks = ticks(Math.min(...known), Math.max(...known));
  const [low, high] = [marks[0], marks.at(-1)];
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const x = (index) => LEFT + ((index + 0.5) / at.length) * (WIDTH - LEFT);
  return figure(title, series, [
    ...frame(at, marks, y),
    ...series.flatMap(({ look, values }) => [
      svg("path", { class: `line ${look}`, d: path(values, x, y) }),
      ...values.map((value, index) => value !== null && svg("circle", { class: `dot ${look}`, cx: x(index), cy: y(value), r: 2 })).filter(Boolean),
    ]),
  ]);
}

/** The same as bars on top of each other: counts. */
export function stacks(title, at, series) {
  const sums = at.map((_, index) => series.reduce((sum, { values }) => sum + values[index], 0));
  const most = Math.max(...sums);
  if (!most) return null;
  const high = niceCeiling(most);
  const y = (value) => TOP + (1 - value / high) * (HEIGHT - TOP - BOTTOM);
  const width = (WIDTH - LEFT) / at.length;
  const bars = at.flatMap((_, index) => {
    let below = 0;
    return series
      .filter(({ values }) => values[index] > 0)
      .map(({ look, values }) => {
        const bottom = y(below);
        below += values[index];
        return svg("rect", { class: `area ${look}`, x: LEFT + index * width + width * 0.1, width: width * 0.8, y: y(below), height: bottom - y(below) });
      });
  });
  return figure(title, series, [...frame(at, [0, high / 2, high], y), ...bars]);
}

function path(values, x, y) {
  const points = values.flatMap((value, index) => (value === null ? [] : [`${x(index).toFixed(1)},${y(value).toFixed(1)}`]));
  return points.length ? `M${points.join("L")}` : "";
}

function frame(at, marks, y) {
  const places = at.length > 2 ? [0, Math.floor(at.length / 2), at.length - 1] : [0];
  const isLong = at.at(-1) - at[0] > 2 * 86400;
  const name = (time) => (isLong ? moment(time).split(",")[0] : clock(time));
  return [
    ...marks.map((value) => svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) })),
    ...marks.map((value) => text(LEFT - 6, y(value) + 4, number(value, 2), "end")),
    ...places.map((place, index) => text(LEFT + ((place + 0.5) / at.length) * (WIDTH - LEFT), HEIGHT - 5, name(at[place]), index === 0 ? "start" : index === 1 ? "middle" : "end")),
  ];
}

function figure(title, series, parts) {
  const legend = series.filter(({ values }) => values.some((value) => value));
  const last = legend.map(({ name, values }) => `${name}: ${number(values.filter((value) => value !== null).at(-1))} last`).join(", ");
  return el(
    "figure",
    { class: "chart" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${last}.` }, ...parts),
    el("figcaption", { class: "legend" }, legend.map(({ name, look }) => el("span", {}, el("i", { class: look, "aria-hidden": "true" }), name))),
  );
}

/** A curve of steps on a scale of its own: first and last value beside it. */
export function curve(name, values) {
  const [low, high] = padded(Math.min(...values), Math.max(...values));
  const x = (index) => 4 + (index / Math.max(1, values.length - 1)) * 292;
  const y = (value) => 56 - ((value - low) / (high - low)) * 52;
  return el(
    "figure",
    { class: "curve" },
    el("figcaption", { class: "row between" }, el("strong", { text: name }), el("span", { class: "soft", text: `${number(values[0])} → ${number(values.at(-1))}` })),
    svg("svg", { viewBox: "0 0 300 60", role: "img", "aria-label": `${name}: from ${number(values[0])} to ${number(values.at(-1))}` }, svg("path", { class: "line one", d: path(values, x, y) })),
  );
}

/** One check of the gate: its interval against its margin. What lies beyond the margin is shaded. */
export function strip(check) {
  const { value, low, high, at_least: least, at_most: most, unchanged } = check;
  const bounds = [least, most].filter(isNumber);
  if (!isNumber(value) || !bounds.length) return null;
  const [from, to] = padded(...extremes([value, low, high, unchanged, ...bounds].filter(isNumber)), 0.1);
  const x = (at) => ((at - from) / (to - from)) * 300;
  const mark = { passed: "●", failed: "◆", inconclusive: "○" }[check.outcome] ?? "–";
  return svg(
    "svg",
    { class: `strip ${check.outcome}`, viewBox: "0 0 300 26", role: "img", "aria-label": `${check.name}: ${number(value)}${asked(check)}` },
    isNumber(least) && svg("rect", { class: "beyond", x: 0, y: 3, width: x(least), height: 20 }),
    isNumber(most) && svg("rect", { class: "beyond", x: x(most), y: 3, width: 300 - x(most), height: 20 }),
    isNumber(unchanged) && svg("line", { class: "grid", x1: x(unchanged), x2: x(unchanged), y1: 3, y2: 23 }),
    ...bounds.map((bound) => svg("line", { class: "margin", x1: x(bound), x2: x(bound), y1: 1, y2: 25 })),
    svg("line", { class: "interval", x1: isNumber(low) ? x(low) : 0, x2: isNumber(high) ? x(high) : 300, y1: 13, y2: 13 }),
    svg("text", { class: "mark", x: x(value), y: 18, "text-anchor": "middle" }, mark),
  );
}

/** What a check asks for, in words. */
export function asked({ at_least: least, at_most: most }) {
  if (isNumber(least) && isNumber(most)) return `, asked: ${number(least)} to ${number(most)}`;
  if (isNumber(least)) return `, asked: at least ${number(least)}`;
  return isNumber(most) ? `, asked: at most ${number(most)}` : "";
}

/** An e-value against what is asked of it, logarithmic from 1. */
export function evidence(metric, name, value, needed, isHarm) {
  const highest = Math.log(Math.max(10, value * 2, needed * 2));
  const x = (at) => (Math.min(1, Math.log(Math.max(at, 1)) / highest)) * 300;
  const isShown = value >= needed;
  const look = isShown ? (isHarm ? "failed" : "passed") : "inconclusive";
  return el(
    "div",
    { class: "evidence" },
    el("p", { class: "row between" }, el("span", { text: name }), el("span", { class: "soft", text: `${number(value)} of ${number(needed)}${isShown ? " · shown" : ""}` })),
    svg(
      "svg",
      { class: `strip ${look}`, viewBox: "0 0 300 14", role: "img", "aria-label": `${metric}, ${name}: evidence ${number(value)}, asked ${number(needed)}` },
      svg("line", { class: "grid", x1: 0, x2: 300, y1: 7, y2: 7 }),
      svg("line", { class: "interval", x1: 0, x2: x(value), y1: 7, y2: 7 }),
      svg("line", { class: "margin", x1: x(needed), x2: x(needed), y1: 0, y2: 14 }),
    ),
  );
}

function text(x, y, said, anchor) {
  return svg("text", { class: "tick", x, y, "text-anchor": anchor }, said);
}

function padded(low, high, share = 0.08) {
  const pad = (high - low || Math.abs(high) || 1) * share;
  return [low - pad, high + pad];
}

function extremes(values) {
  return [Math.min(...values), Math.max(...values)];
}

/** Round numbers from below the lowest to above the highest value: three to five of them. */
function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 3;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * unit).find((one) => one >= rough);
  const first = Math.floor(low / step);
  const last = Math.max(first + 1, Math.ceil(high / step));
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

function niceCeiling(most) {
  const unit = 10 ** Math.floor(Math.log10(most));
  return Math.max(2, [1, 2, 4, 6, 8, 10].map((step) => step * unit).find((step) => step >= most));
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
