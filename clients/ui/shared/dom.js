// Elements from code. Text goes in as text alone: no string ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. `props`: `class`, `text`, `on: {event: handler}`, properties of the element, else attributes.
 * Children that are null or false are left out.
 */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.setAttribute("class", value);
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else if (!(node instanceof SVGElement) && name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const ICONS = {
  up: "M7 11v9H4v-9h3Zm3 9v-9.5L13.6 3c1.4 0 2.4 1 2.4 2.4V9h4.2c1 0 1.8 1 1.5 2l-1.9 7.2c-.2 1-1 1.8-2 1.8H10Z",
  edit: "M4 20v-4L15.5 4.5a2 2 0 0 1 3 0l1 1a2 2 0 0 1 0 3L8 20H4Zm9-13 4 4",
  again: "M20 5v5h-5M4 19v-5h5M5.5 9A7.5 7.5 0 0 1 19 8.5M18.5 15A7.5 7.5 0 0 1 5 15.5",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  send: "M12 20V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  close: "M6 6l12 12M18 6 6 18",
  plus: "M12 5v14M5 12h14",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
  check: "M5 12.5 10 17 19 7.5",
  sliders: "M4 7h9M19 7h1M4 17h2M12 17h8M16 4.5v5M9 14.5v5",
};

/** A drawing beside words, or in a button that is named otherwise: it says nothing by itself. */
export function icon(name) {
  const shape = svg("path", { d: ICONS[name] ?? ICONS.up, transform: name === "down" ? "rotate(180 12 12)" : null });
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, shape);
}

/** A button; `label` names one that shows only an icon. */
export function button(props, ...children) {
  return el("button", { type: "button", ...props }, ...children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Tell it to those who cannot see it. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Show an error in words, with what can be done about it. */
export function notice(error, retry = null) {
  return el(
    "div",
    { class: "notice bad", role: "alert" },
    el("p", { text: error.message }),
    error.requestId && el("p", { class: "soft small", text: `Request ${error.requestId}` }),
    retry && button({ class: "quiet", on: { click: retry } }, icon("again"), "Try again"),
  );
}
