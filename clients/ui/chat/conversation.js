// What a conversation is: turns of one question and the answers that were given to it. No element, no network.

/** A new, empty one. */
export function newConversation() {
  return { title: "New conversation", turns: [] };
}

/** `images`: [{url, name}], as data: URLs. */
export function addTurn(conversation, text, images) {
  if (!conversation.turns.length) conversation.title = text.trim() || images[0]?.name || "Image";
  const turn = { text, images, answers: [], at: -1 };
  conversation.turns.push(turn);
  return turn;
}

/**
 * A further answer to the turn's question, which is shown from now on.
 *
 * `state`: waiting | growing | done | stopped | failed. `choices`: what the service returned, the best one first.
 * `kept`: the place of the choice that stands for the answer. `open`: somebody still has to choose between two, which
 * stand in the order of `sides`.
 */
export function addAnswer(turn) {
  const answer = {
    state: "waiting",
    id: null,
    choices: [],
    kept: 0,
    open: false,
    sides: [0, 1],
    corrected: null,
    rating: null,
    verdict: null,
    alignment: null,
    error: null,
  };
  turn.answers.push(answer);
  turn.at = turn.answers.length - 1;
  return answer;
}

/** Take in one chunk of the stream. */
export function grow(answer, chunk) {
  answer.id = chunk.id;
  for (const choice of chunk.choices) {
    const kept = (answer.choices[choice.index] ??= { text: "", candidate: null, finish: null });
    kept.text += choice.delta?.content ?? "";
    kept.candidate = choice.candidate_id ?? kept.candidate;
    kept.finish = choice.finish_reason ?? kept.finish;
    answer.state = "growing";
  }
  if (chunk.plumbline) answer.alignment = chunk.plumbline;
}

/** The stream is over. */
export function finish(answer) {
  answer.state = "done";
  answer.open = (answer.alignment?.compare ?? []).length > 1 && answer.choices.length > 1;
  if (Math.random() < 0.5) answer.sides = [1, 0]; // the one that the service thinks better is not always on the left
}

export function shown(turn) {
  return turn.answers[turn.at] ?? null;
}

export function textOf(answer) {
  return answer.corrected ?? answer.choices[answer.kept]?.text ?? "";
}

/** What has been said so far, as the API takes it; a question without an answer is left out. `upto` is the last turn. */
export function messages(conversation, upto) {
  return conversation.turns.flatMap((turn) => {
    if (turn === upto) return [question(turn)];
    const answer = shown(turn);
    const isSaid = answer && ["done", "stopped"].includes(answer.state) && textOf(answer);
    return isSaid ? [question(turn), { role: "assistant", content: textOf(answer) }] : [];
  });
}

function question(turn) {
  const parts = turn.images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: [...parts, ...(turn.text ? [{ type: "text", text: turn.text }] : [])] };
}
