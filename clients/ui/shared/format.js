// Numbers and times as people read them.

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${number(share * 100)}%`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** How long ago, from UTC seconds. */
export function ago(at, now = Date.now() / 1000) {
  const passed = Math.max(0, now - at);
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  return `${plural(Math.floor(passed / 86400), "day")} ago`;
}

export function moment(at) {
  return new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

/** An adapter's id is long: the beginning tells it from others, the whole is in the title. */
export function shortId(id) {
  return id.length > 18 ? `${id.slice(0, 17)}…` : id;
}
