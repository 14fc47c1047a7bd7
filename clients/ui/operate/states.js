// An adapter's states: how they look, and which moves an operator has from each.

import { el } from "../shared/dom.js";

const LOOKS = {
  staged: "",
  verified: "",
  gated: "accent",
  canary: "warn",
  active: "good",
  retired: "",
  rejected: "bad",
  rolled_back: "bad",
  quarantined: "bad",
  ephemeral: "",
};

const MOVES = {
  staged: ["reject"],
  verified: ["reject"],
  gated: ["promote", "canary", "reject"],
  canary: ["promote", "canary", "reject"],
  rejected: ["canary"],
};

export function badge(state) {
  return el("span", { class: `chip ${LOOKS[state] ?? ""}`, text: state.replace("_", " ") });
}

/** The moves that the service takes for an adapter in this state; it has the last word. */
export function movesOf(state) {
  return [...(MOVES[state] ?? []), ...(state === "quarantined" ? [] : ["quarantine"])];
}
