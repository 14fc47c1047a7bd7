// The chat page: conversations, the message box, and the way of a question through the service.

import { ApiError, call, onMissingKey, randomId, stream } from "../shared/api.js";
import { announce, button, byId, el, icon, notice } from "../shared/dom.js";
import { makeKeyDialog } from "../shared/key.js";
import { TurnView } from "./answer.js";
import { addAnswer, addTurn, finish, grow, messages, newConversation, shown, textOf } from "./conversation.js";
import { Attachments, acceptImages } from "./images.js";

const EXAMPLES = ["Describe this image.", "What stands out here?", "How many things are there, and which?"];
/** The service keeps a user with one adapter while it tries two: by this name, which says nothing of anybody. */
const USER = `web-${randomId()}`;

const log = byId("log");
const prompt = byId("prompt");
const conversations = [newConversation()];
let current = conversations[0];
let views = new Map();
let asking = null;

const attachments = new Attachments(byId("attached"), complain);

function complain(text) {
  byId("composer-note").textContent = text;
  byId("composer-note").hidden = !text;
}

// --- asking -------------------------------------------------------------------------------------------------

function options() {
  const bestOf = byId("best-of").value;
  const compare = byId("compare").value;
  return {
    ...(bestOf && { best_of: bestOf === "auto" ? "auto" : Number(bestOf) }),
    store: byId("store").checked,
    plumbline: {
      explain: true,
      // One candidate leaves nothing to compare, and is streamed as it grows.
      compare: bestOf === "1" || !byId("store").checked || compare === "false" ? false : compare === "auto" ? "auto" : true,
    },
  };
}

async function ask(turn, earlier = null) {
  const conversation = current;
  const body = { model: byId("model").value, messages: messages(conversation, turn), stream: true, user: USER, ...options() };
  if (earlier) body.plumbline.regenerate_of = earlier.id;
  const answer = addAnswer(turn);
  const view = views.get(turn);
  const abort = (asking = new AbortController());
  setBusy(true);
  view.draw();
  scrollDown();
  try {
    for await (const chunk of stream("v1/chat/completions", body, abort.signal)) {
      grow(answer, chunk);
      if (answer.choices.length < 2) keepingPlace(() => view.grow());
    }
    finish(answer);
    announce(answer.open ? "Two answers. Choose the better one." : `Answer: ${textOf(answer)}`);
  } catch (error) {
    if (error.name === "AbortError") answer.state = "stopped";
    else if (error instanceof ApiError) Object.assign(answer, { state: "failed", error });
    else throw error;
  } finally {
    asking = null;
    setBusy(false);
    keepingPlace(() => view.draw());
  }
}

async function redo(turn) {
  if (asking) return;
  const earlier = shown(turn);
  await ask(turn, earlier?.state === "done" && earlier.alignment?.feedback_token ? earlier : null);
}

function setBusy(isBusy) {
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
}

/** Change the log; who reads its end goes on reading its end. */
function keepingPlace(change) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (isAtEnd) scrollDown();
}

function scrollDown() {
  log.scrollTop = log.scrollHeight;
}

async function submit() {
  const text = prompt.value.trim();
  if (asking || (!text && attachments.isEmpty)) return;
  prompt.value = "";
  complain("");
  const turn = addTurn(current, text, attachments.take());
  drawConversation();
  await ask(turn);
}

// --- conversations ------------------------------------------------------------------------------------------

function drawConversation() {
  views = new Map(current.turns.map((turn) => [turn, views.get(turn) ?? new TurnView(turn, { redo, changed: drawList })]));
  log.replaceChildren(...(views.size ? [...views.values()].map((view) => view.element) : [welcome()]));
  drawList();
  scrollDown();
}

function drawList() {
  byId("conversations").replaceChildren(
    ...conversations.filter((one) => one.turns.length).map((one) =>
      el("li", {}, button({ class: "quiet wide", "aria-current": one === current ? "true" : null, on: { click: () => open(one) } }, one.title)),
    ),
  );
}

function open(conversation) {
  if (asking) asking.abort();
  current = conversation;
  drawConversation();
  prompt.focus();
}

function startNew() {
  const empty = conversations.find((one) => !one.turns.length) ?? newConversation();
  if (!conversations.includes(empty)) conversations.unshift(empty);
  open(empty);
}

function welcome() {
  const use = (text) => {
    prompt.value = text;
    prompt.focus();
  };
  return el(
    "div",
    { class: "welcome" },
    el("img", { src: new URL("../shared/mark.svg", import.meta.url).href, alt: "", width: 56, height: 56 }),
    el("h1", { text: "What would you like to know?" }),
    el("p", { class: "soft", text: "Drop, paste or attach an image, and ask about it. Your thumbs, choices and corrections teach the model." }),
    el("div", { class: "row centre wrap" }, EXAMPLES.map((text) => button({ on: { click: () => use(text) } }, text))),
  );
}

// --- the page -----------------------------------------------------------------------------------------------

async function loadModels() {
  try {
    const { data } = await call("GET", "v1/models");
    byId("model").replaceChildren(...data.map(({ id }) => el("option", { value: id, text: id })));
  } catch (error) {
    log.replaceChildren(notice(error, () => (drawConversation(), loadModels())));
  }
}

function toggleOptions(event) {
  const panel = byId("options");
  panel.hidden = !panel.hidden;
  event.currentTarget.setAttribute("aria-expanded", String(!panel.hidden));
}

function start() {
  byId("attach").append(icon("image"));
  byId("send").append(icon("send"));
  byId("stop").append(icon("stop"));
  onMissingKey(makeKeyDialog("This service answers those who have a key."));
  byId("new").addEventListener("click", startNew);
  byId("options-button").addEventListener("click", toggleOptions);
  byId("attach").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", async ({ target }) => {
    await attachments.add([...target.files]);
    target.value = ""; // so that the same file can be picked again
    prompt.focus();
  });
  byId("stop").addEventListener("click", () => asking?.abort());
  byId("composer").addEventListener("submit", (event) => (event.preventDefault(), submit()));
  prompt.addEventListener("keydown", (event) => {
    const isTyped = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (isTyped && !matchMedia("(pointer: coarse)").matches) {
      event.preventDefault();
      submit();
    }
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && asking?.abort());
  acceptImages(byId("drop"), attachments);
  drawConversation();
  loadModels();
}

start();
