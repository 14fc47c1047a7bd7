// An answer's text as elements: paragraphs, lists, code, headings, **bold**. Everything else stays as it was written.

import { el } from "../shared/dom.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)/;
const ITEM = /^\s*(?:[-*•]|(\d+)[.)])\s+(.*)$/;

/** The elements of a text. */
export function prose(text) {
  const blocks = [];
  const parts = text.split(/^```.*$/m);
  parts.forEach((part, index) => {
    if (index % 2) blocks.push(el("pre", { tabIndex: 0 }, el("code", { text: part.replace(/^\n|\n$/g, "") })));
    else for (const block of part.split(/\n\s*\n/)) if (block.trim()) blocks.push(...paragraph(block));
  });
  return blocks;
}

function paragraph(block) {
  const found = [];
  for (const line of block.trim().split("\n")) {
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    const item = ITEM.exec(line);
    const last = found.at(-1);
    if (heading) found.push(el("p", { class: "heading" }, ...inline(heading[1])));
    else if (item) {
      const tag = item[1] ? "ol" : "ul";
      const list = last?.localName === tag ? last : el(tag, item[1] ? { start: Number(item[1]) } : {});
      if (list !== last) found.push(list);
      list.append(el("li", {}, ...inline(item[2])));
    } else if (last?.localName === "p" && !last.className) last.append("\n", ...inline(line));
    else found.push(el("p", {}, ...inline(line)));
  }
  return found;
}

function inline(text) {
  return text
    .split(INLINE)
    .filter(Boolean)
    .map((part) => {
      if (/^`[^`]+`$/.test(part)) return el("code", { text: part.slice(1, -1) });
      if (/^\*\*[^*]+\*\*$/.test(part)) return el("strong", { text: part.slice(2, -2) });
      return part;
    });
}
