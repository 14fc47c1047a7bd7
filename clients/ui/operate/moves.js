// Moves of routing, each confirmed with a reason, and made only if routing still stands where the page shows it.

import { ApiError, call } from "../shared/api.js";
import { announce, button, el, notice } from "../shared/dom.js";
import { percent } from "../shared/format.js";

const ADAPTER_MOVES = {
  promote: { name: "Promote", said: (id) => `${id} answers all requests from now on. The one that does now stays at hand for a rollback.` },
  canary: { name: "Start canary", said: (id) => `${id} answers a share of the users, who stay with it. The evidence decides, or you do.` },
  reject: { name: "Reject", said: (id) => `${id} is not served. A running canary ends, and its users go back.` },
  quarantine: {
    name: "Quarantine",
    isGrave: true,
    said: (id) => `${id} is never served again, and the signals behind it are set aside: the next round does not learn from them.`,
  },
};

/** Buttons for an adapter's moves. `done()` is called after one was made, or when the page has to be read again. */
export function adapterMoves(adapter, names, routing, done) {
  return names.map((name) => {
    const move = ADAPTER_MOVES[name];
    const isShareOnly = name === "canary" && adapter.state === "canary";
    const isForced = name === "canary" && adapter.state === "rejected";
    const label = isShareOnly ? "Change share" : isForced ? "Canary all the same" : move.name;
    const look = move.isGrave ? "danger" : name === "promote" ? "primary" : "";
    const open = () =>
      confirmMove({
        title: `${label}: ${adapter.id}`,
        what: move.said(adapter.id) + (isForced ? " It was rejected: this is forced, and audited as such." : ""),
        label,
        isGrave: move.isGrave,
        share: name === "canary" ? (isShareOnly ? routing.canary_share : null) : undefined,
        routing,
        send: (said) => call("POST", `v1/adapters/${encodeURIComponent(adapter.id)}/${name}`, { body: isForced ? { ...said, force: true } : said }),
        done,
      });
    return button({ class: look, "data-key": `${name}-${adapter.id}`, on: { click: open } }, label);
  });
}

/** The two ways back of an alias. */
export function wayBack(routing, done) {
  const target = routing.previous ?? "base";
  const isCanaryAlone = routing.active === "base" && routing.canary !== null;
  const what = isCanaryAlone
    ? `The canary ${routing.canary} ends; base answers all requests.`
    : `${target} takes all requests; the next one already goes there. ${routing.active} can be brought back by undoing this.`;
  const rollback = () =>
    confirmMove({
      title: `Roll back ${routing.alias}`,
      what,
      label: "Roll back",
      isGrave: true,
      routing,
      send: (said) => call("POST", "v1/rollback", { body: { ...said, alias: routing.alias } }),
      done,
    });
  const undo = () =>
    confirmMove({
      title: `Undo the rollback of ${routing.alias}`,
      what: "What the last rollback took out takes all requests again.",
      label: "Undo",
      routing,
      send: (said) => call("POST", "v1/rollback/undo", { body: { ...said, alias: routing.alias } }),
      done,
    });
  return [
    button({ class: "danger", "data-key": "rollback", disabled: routing.active === "base" && !isCanaryAlone, on: { click: rollback } }, "Roll back"),
    button({ "data-key": "undo", on: { click: undo } }, "Undo rollback"),
  ];
}

/** Ask, with a reason; then send it with the generation that was looked at. */
function confirmMove({ title, what, label, isGrave, share, routing, send, done }) {
  const reason = el("textarea", { id: "move-reason", rows: 2, maxLength: 4000 });
  const shareInput =
    share === undefined
      ? null
      : el("input", { id: "move-share", type: "number", min: 1, max: 100, step: "any", value: share === null ? "" : share * 100, placeholder: "as configured" });
  const problem = el("div");
  const submit = el("button", { type: "submit", class: isGrave ? "danger" : "primary" }, label);
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "move-title", text: title }),
    el("p", { text: what }),
    el("p", { class: "soft small", text: `${routing.alias} stands at generation ${routing.generation}: ${standing(routing)}.` }),
    shareInput && el("label", { for: "move-share", text: "Share of the users, in percent" }),
    shareInput,
    el("label", { for: "move-reason", text: "Reason (kept in the audit trail)" }),
    reason,
    problem,
    el("div", { class: "row end" }, button({ class: "quiet", on: { click: () => dialog.close() } }, "Cancel"), submit),
  );
  const dialog = el("dialog", { "aria-labelledby": "move-title", on: { close: () => dialog.remove() } }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const said = { reason: reason.value.trim(), expect_generation: routing.generation };
    if (shareInput?.value) said.share = Number(shareInput.value) / 100;
    try {
      await send(said);
      dialog.close();
      announce(`${label}: done.`);
      done();
    } catch (error) {
      problem.replaceChildren(refusal(error, () => (dialog.close(), done())));
      submit.disabled = error.status === 412;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}

function standing(routing) {
  const canary = routing.canary ? `, canary ${routing.canary} at ${percent(routing.canary_share)}` : "";
  return `${routing.active} active${canary}`;
}

function refusal(error, reload) {
  if (!(error instanceof ApiError) || error.status !== 412) return notice(error);
  return el(
    "div",
    { class: "notice bad", role: "alert" },
    el("p", { text: "Somebody else moved it since you looked. Nothing was changed: look again before you decide." }),
    button({ on: { click: reload } }, "Look again"),
  );
}
