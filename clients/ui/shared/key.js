// The dialog that asks for an API key. It is kept in memory: a reload forgets it.

import { button, el } from "./dom.js";

/** Ask for a key; null where somebody declined. `message`: why the last one did not do. Calls at once share one dialog. */
export function makeKeyDialog(purpose) {
  let open = null;
  return (message) => {
    open ??= ask(purpose, message).finally(() => {
      open = null;
    });
    return open;
  };
}

function ask(purpose, message) {
  const input = el("input", { id: "api-key", type: "password", autocomplete: "off", spellcheck: false, required: true });
  const why = el("p", { class: "bad", role: "alert", text: message, hidden: !message });
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "key-title", text: "API key" }),
    el("p", { class: "soft", text: `${purpose} It is kept in this page's memory only, and forgotten with it.` }),
    why,
    el("label", { for: "api-key", text: "Key" }),
    input,
    el(
      "div",
      { class: "row end" },
      button({ class: "quiet", on: { click: () => dialog.close("") } }, "Not now"),
      el("button", { type: "submit", class: "primary" }, "Use this key"),
    ),
  );
  const dialog = el("dialog", { "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", () => dialog.close(input.value.trim()));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue || null);
    });
  });
}
