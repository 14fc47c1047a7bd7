// Two answers side by side, for the person to choose.

import { announce, button, el, notice } from "../shared/dom.js";
import { prefer } from "./opinions.js";
import { prose } from "./prose.js";

const NAMES = ["A", "B"];

/** The choice between an answer's two texts; `done()` once it is kept. */
export function comparison(answer, done) {
  const problem = el("div");
  const choose = async (verdict, said) => {
    try {
      await prefer(answer, verdict);
      announce(said);
      done();
    } catch (error) {
      problem.replaceChildren(notice(error, () => choose(verdict, said)));
    }
  };
  return el(
    "div",
    { class: "comparison", role: "group", "aria-label": "Which answer is better?" },
    el("p", { class: "ask", text: "Which answer is better?" }),
    el(
      "div",
      { class: "sides" },
      answer.sides.map((place, index) => side(answer.choices[place], index, () => choose(place, `Answer ${NAMES[index]} chosen. Thank you.`))),
    ),
    el(
      "div",
      { class: "row centre" },
      button({ class: "quiet", on: { click: () => choose("good", "Both are good. Thank you.") } }, "Both are good"),
      button({ class: "quiet", on: { click: () => choose("bad", "Neither is good. Thank you.") } }, "Neither is good"),
    ),
    problem,
  );
}

function side(choice, index, choose) {
  return el(
    "section",
    { class: "side", "aria-label": `Answer ${NAMES[index]}` },
    el("p", { class: "letter soft", text: `Answer ${NAMES[index]}` }),
    el("div", { class: "prose" }, ...prose(choice.text)),
    button({ class: "wide", on: { click: choose } }, `Choose ${NAMES[index]}`),
  );
}
