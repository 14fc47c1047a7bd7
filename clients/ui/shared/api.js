// Calls of the service's API. The key lives in this module's memory and nowhere else.

const ROOT = new URL("../../", import.meta.url);

let key = null;
let askForKey = null;

/** What the service refused, in its own words. `status` is 0 where it did not answer at all. */
export class ApiError extends Error {
  constructor(status, { message, code = null, param = null }, requestId = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = requestId;
  }
}

/** `ask(message)` gets a key from somebody, or null. It is called when the service refuses for want of one. */
export function onMissingKey(ask) {
  askForKey = ask;
}

export function setKey(value) {
  key = value || null;
}

export function hasKey() {
  return key !== null;
}

/** One call; the parsed reply. `token`: the answer's own leave to speak about it, in place of a key. */
export async function call(method, path, { body, token, query, once = false } = {}) {
  const reply = await send(method, path, { body, token, query, once });
  return reply.json();
}

/** The events of a streamed answer, parsed, as they come. An error inside the stream is thrown. */
export async function* stream(path, body, signal) {
  const reply = await send("POST", path, { body, signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isWhole = false;
  for (;;) {
    const { value, done } = await read(reader);
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a heartbeat
      const data = event.slice("data: ".length);
      if (data === "[DONE]") {
        isWhole = true;
        continue;
      }
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(reply.status, parsed.error, reply.headers.get("x-request-id"));
      yield parsed;
    }
  }
  if (!isWhole) throw new ApiError(0, { message: "The answer broke off: the connection ended before it was whole." });
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

async function send(method, path, { body, token, query, signal, once }) {
  for (let asked = null; ; ) {
    const reply = await fetchReply(method, path, { body, token, query, signal, once });
    if (reply.ok) return reply;
    const error = await refusal(reply);
    if (error.status !== 401 || token || !askForKey) throw error;
    asked = await askForKey(hasKey() ? error.message : "");
    if (!asked) throw error;
    setKey(asked);
  }
}

async function fetchReply(method, path, { body, token, query, signal, once }) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
  const headers = {};
  if (token) headers.authorization = `Plumbline-Feedback ${token}`;
  else if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (once) headers["idempotency-key"] = randomId();
  try {
    return await fetch(url, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

function unreachable() {
  return new ApiError(0, { message: "The service does not answer. Is it running, and is this device online?" });
}

async function refusal(reply) {
  const requestId = reply.headers.get("x-request-id");
  try {
    return new ApiError(reply.status, (await reply.json()).error, requestId);
  } catch {
    return new ApiError(reply.status, { message: `The service refused with status ${reply.status}.` }, requestId);
  }
}

/** 128 random bits as text; unlike `crypto.randomUUID`, also on pages that came without TLS. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
