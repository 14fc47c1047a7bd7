// What a person says of an answer, sent with the answer's own token: nobody needs a key for it.

import { call } from "../shared/api.js";

function token(answer) {
  return answer.alignment?.feedback_token ?? null;
}

/** Whether the service takes opinions about this answer: one that is not kept has no token. */
export function isOpen(answer) {
  return token(answer) !== null;
}

function feedback(answer, said) {
  const candidate = answer.choices[answer.kept]?.candidate;
  const about = candidate ? { completion_id: answer.id, candidate_id: candidate } : { completion_id: answer.id };
  return call("POST", "v1/feedback", { body: { ...about, ...said }, token: token(answer), once: true });
}

/** `rating`: "up" or "down". A later one takes its place. */
export async function rate(answer, rating) {
  await feedback(answer, { rating });
  answer.rating = rating;
}

/** Why: goes with the rating, in place of the one without a reason. */
export function giveReason(answer, comment) {
  return feedback(answer, { rating: answer.rating, comment });
}

export async function correct(answer, correction) {
  await feedback(answer, { correction });
  answer.corrected = correction;
}

/** Which of the two choices is better, by its place; "good" or "bad" where neither is. */
export async function prefer(answer, verdict) {
  const ids = answer.choices.map((choice) => choice.candidate);
  const said = typeof verdict === "string" ? { tie: verdict } : { chosen: ids[verdict], rejected: ids[1 - verdict] };
  await call("POST", "v1/preferences", { body: { completion_id: answer.id, ...said }, token: token(answer), once: true });
  if (typeof verdict === "number") answer.kept = verdict;
  answer.verdict = verdict;
  answer.open = false;
}
