// The operators' console: pages by the address's hash, read again every few seconds, drawn again where something changed.

import { ApiError, call, onMissingKey, setKey } from "../shared/api.js";
import { button, byId, el, notice } from "../shared/dom.js";
import { clock } from "../shared/format.js";
import { makeKeyDialog } from "../shared/key.js";
import * as adapter from "./adapter.js";
import * as adapters from "./adapters.js";
import * as audit from "./audit.js";
import * as learning from "./learning.js";
import * as overview from "./overview.js";

const EVERY_MS = 5000;
const PAGES = { overview, adapters, adapter, learning, audit };

const view = byId("view");
let drawn = "";
let reading = 0;

/** The page and what it is about: "#/adapters/ID" is the page of one adapter. */
function place() {
  const [, page = "overview", about] = location.hash.split("/");
  const name = page === "adapters" && about ? "adapter" : page in PAGES ? page : "overview";
  return { name, about: about && decodeURIComponent(about), nav: page in PAGES ? page : "overview" };
}

/** Read the page's data and draw what changed. A later reading overtakes an earlier one. */
async function refresh() {
  const number = ++reading;
  const { name, about } = place();
  try {
    const data = await PAGES[name].load(byId("alias").value, about);
    if (number !== reading) return;
    const now = JSON.stringify([name, about, data]);
    if (now !== drawn && !document.querySelector("dialog")) {
      drawn = now;
      show(PAGES[name].draw(data, refresh));
      document.body.dataset.page = location.hash.slice(2) || "overview";
    }
    byId("state").textContent = `Read at ${clock(Date.now() / 1000)}`;
  } catch (error) {
    if (number !== reading) return;
    if (!(error instanceof ApiError)) throw error;
    drawn = "";
    complain(error);
  }
}

/** Put it in the old one's place; the focus and what was unfolded stay. */
function show(page) {
  const focused = document.activeElement?.dataset?.key;
  const open = [...view.querySelectorAll("details[open][data-key]")].map((one) => one.dataset.key);
  view.replaceChildren(page);
  for (const key of open) view.querySelector(`details[data-key="${CSS.escape(key)}"]`)?.setAttribute("open", "");
  if (focused) view.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function complain(error) {
  byId("state").textContent = "";
  const isRole = error.status === 403;
  const other = () => (setKey(null), ask("").then((key) => (setKey(key), start())));
  view.replaceChildren(
    el(
      "div",
      { class: "cards" },
      el(
        "section",
        { class: "card whole refused" },
        el("h1", { text: isRole ? "This is for operators" : "Something is in the way" }),
        notice(error, isRole ? null : start),
        (isRole || error.status === 401) && button({ class: "primary", on: { click: other } }, "Use an operator's key"),
      ),
    ),
  );
}

const ask = makeKeyDialog("The console is for operators.");

async function start() {
  try {
    const { data } = await call("GET", "v1/routing");
    const select = byId("alias");
    const before = select.value;
    select.replaceChildren(...data.map(({ alias }) => el("option", { value: alias, text: alias, selected: alias === before })));
    select.hidden = data.length < 2;
    await refresh();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    complain(error);
  }
}

function turn() {
  const { nav } = place();
  for (const link of byId("nav").children) {
    if (link.hash === `#/${nav}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

onMissingKey(ask);
addEventListener("hashchange", () => {
  turn();
  view.focus();
  scrollTo(0, 0);
  refresh();
});
byId("alias").addEventListener("change", refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || !byId("alias").value || view.querySelector(".refused") || refresh(), EVERY_MS);
turn();
start();
