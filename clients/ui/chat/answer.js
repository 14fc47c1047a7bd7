// One turn as elements: the question, and the answer with everything that can be said and asked about it.

import { announce, button, el, icon, notice } from "../shared/dom.js";
import { shortId } from "../shared/format.js";
import { comparison } from "./compare.js";
import { shown, textOf } from "./conversation.js";
import { explanation } from "./explain.js";
import { correct, giveReason, isOpen, rate } from "./opinions.js";
import { prose } from "./prose.js";

/**
 * The view of a turn. `redo(turn)` asks the same again; `changed()` tells that another answer stands there now.
 * `draw()` shows the turn as it is now, `grow()` only what has been added to the text.
 */
export class TurnView {
  element = el("article", { class: "turn" });
  #turn;
  #redo;
  #changed;
  #body = null;
  #editing = false;
  #problem = null;

  constructor(turn, { redo, changed }) {
    this.#turn = turn;
    this.#redo = () => redo(turn);
    this.#changed = changed;
    this.draw();
  }

  draw() {
    const answer = shown(this.#turn);
    this.element.replaceChildren(question(this.#turn), ...(answer ? [this.#answer(answer)] : []));
  }

  grow() {
    const answer = shown(this.#turn);
    if (!this.#body || answer.state !== "growing" || answer.choices.length > 1) this.draw();
    else this.#body.replaceChildren(...prose(textOf(answer)));
  }

  #answer(answer) {
    const isOver = !["waiting", "growing"].includes(answer.state);
    this.#body = el("div", { class: "prose" }, ...prose(textOf(answer)));
    return el(
      "section",
      { class: `answer ${answer.state}`, "aria-label": "Answer", "aria-busy": String(!isOver) },
      answer.state === "waiting" && el("p", { class: "waiting" }, el("span", { class: "dots", "aria-hidden": "true" }), "Working on it"),
      answer.open ? this.#comparison(answer) : this.#editing ? this.#editor(answer) : this.#body,
      answer.state === "stopped" && el("p", { class: "soft small", text: "Stopped." }),
      answer.choices[answer.kept]?.finish === "length" &&
        el("p", { class: "soft small", text: "Cut off at the length limit." }),
      answer.error && notice(answer.error, this.#redo),
      this.#problem && notice(this.#problem),
      isOver && !answer.open && !this.#editing && this.#foot(answer),
      isOver && !answer.open && explanation(answer), // before a choice it would say which one is thought to be better
    );
  }

  #comparison(answer) {
    return comparison(answer, () => {
      this.draw();
      this.#changed();
      this.element.querySelector(".actions button")?.focus();
    });
  }

  // --- what stands below an answer --------------------------------------------------------------------------

  #foot(answer) {
    return el(
      "div",
      { class: "foot" },
      el("div", { class: "actions", role: "group", "aria-label": "About this answer" }, ...this.#actions(answer)),
      facts(answer),
      answer.rating && !answer.reasoned && this.#reason(answer),
    );
  }

  #actions(answer) {
    const turn = this.#turn;
    const isWhole = answer.state === "done";
    const thumb = (rating, name) =>
      button(
        {
          class: "icon-button small",
          "aria-label": name,
          title: name,
          "aria-pressed": String(answer.rating === rating),
          on: { click: () => this.#try(async () => rate(answer, rating), `${name}. Thank you.`, `[aria-label="${name}"]`) },
        },
        icon(rating),
      );
    const step = (by, name) =>
      button(
        { class: "icon-button small", "aria-label": name, disabled: !turn.answers[turn.at + by], on: { click: () => this.#turnTo(turn.at + by) } },
        icon(by < 0 ? "left" : "right"),
      );
    const canSay = isWhole && isOpen(answer);
    return [
      ...(canSay ? [thumb("up", "Good answer"), thumb("down", "Bad answer")] : []),
      canSay && button({ class: "icon-button small", "aria-label": "Correct it", title: "Correct it", on: { click: () => this.#edit(true) } }, icon("edit")),
      button({ class: "icon-button small", "aria-label": "Ask again", title: "Ask again", on: { click: this.#redo } }, icon("again")),
      textOf(answer) &&
        button(
          { class: "icon-button small", "aria-label": "Copy", title: "Copy", on: { click: () => this.#try(() => navigator.clipboard.writeText(textOf(answer)), "Copied.") } },
          icon("copy"),
        ),
      ...(turn.answers.length > 1
        ? [step(-1, "Earlier answer"), el("span", { class: "soft small", text: `${turn.at + 1} of ${turn.answers.length}` }), step(1, "Later answer")]
        : []),
    ].filter(Boolean);
  }

  #turnTo(at) {
    this.#turn.at = at;
    this.#editing = false;
    this.draw();
    this.#changed();
  }

  /** The optional reason of a thumb. */
  #reason(answer) {
    const id = `reason-${answer.id}`;
    const input = el("input", { id, type: "text", maxLength: 4000, autocomplete: "off" });
    const send = async () => {
      if (input.value.trim()) await giveReason(answer, input.value.trim());
      answer.reasoned = true;
    };
    return el(
      "form",
      { class: "reason row", on: { submit: (event) => (event.preventDefault(), this.#try(send, "Thank you.")) } },
      el("label", { for: id, text: answer.rating === "up" ? "What was good?" : "What was wrong?" }),
      input,
      el("button", { type: "submit" }, "Send"),
    );
  }

  // --- correcting -------------------------------------------------------------------------------------------

  #edit(isEditing) {
    this.#editing = isEditing;
    this.#problem = null;
    this.draw();
    this.element.querySelector(isEditing ? "textarea" : '[aria-label="Correct it"]')?.focus();
  }

  #editor(answer) {
    const input = el("textarea", { "aria-label": "Corrected answer", value: textOf(answer), maxLength: 20000 });
    const save = async () => {
      if (input.value.trim() && input.value.trim() !== textOf(answer)) await correct(answer, input.value.trim());
      this.#editing = false;
      this.#changed();
    };
    return el(
      "form",
      {
        class: "editor",
        on: {
          submit: (event) => (event.preventDefault(), this.#try(save, "Correction kept.", '[aria-label="Correct it"]')),
          keydown: (event) => event.key === "Escape" && this.#edit(false),
        },
      },
      input,
      el(
        "div",
        { class: "row end" },
        button({ class: "quiet", on: { click: () => this.#edit(false) } }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, "Save correction"),
      ),
    );
  }

  /** Do it, tell how it went, and leave the focus where it was. */
  async #try(what, said, focus = null) {
    this.#problem = null;
    try {
      await what();
      announce(said);
    } catch (error) {
      this.#problem = error;
      if (this.#editing) return this.#complain();
    }
    this.draw();
    if (focus) this.element.querySelector(focus)?.focus();
  }

  /** Beside the editor, which keeps what was typed. */
  #complain() {
    this.element.querySelector(".notice")?.remove();
    this.element.querySelector(".editor").after(notice(this.#problem));
  }
}

function question(turn) {
  return el(
    "section",
    { class: "question", "aria-label": "You" },
    turn.images.length > 0 && el("ul", { class: "thumbs" }, turn.images.map(({ url, name }) => el("li", {}, el("img", { src: url, alt: name })))),
    turn.text && el("p", { text: turn.text }),
  );
}

/** Who answered, in a line. */
function facts(answer) {
  const { alignment } = answer;
  if (!alignment) return null;
  const isBase = alignment.adapter === "base";
  return el(
    "p",
    { class: "facts soft small" },
    el("span", { class: "chip", title: alignment.adapter }, isBase ? "base model" : shortId(alignment.adapter)),
    alignment.generated > 1 && el("span", { text: `best of ${alignment.generated}` }),
    answer.corrected !== null && el("span", { class: "chip good", text: "corrected by you" }),
    typeof answer.verdict === "number" && el("span", { class: "chip good", text: "chosen by you" }),
    answer.choices[answer.kept]?.finish === "content_filter" && el("span", { class: "chip bad", text: "withheld by a rule" }),
    alignment.degraded?.length > 0 && el("span", { class: "chip warn", text: `without ${alignment.degraded.join(", ")}` }),
    !isOpen(answer) && el("span", { text: "not kept" }),
  );
}
