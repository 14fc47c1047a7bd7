// Images on their way into a message: picked, dropped or pasted, shown as thumbnails, taken out again.

import { announce, button, el, icon } from "../shared/dom.js";
import { plural } from "../shared/format.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MAX_IMAGES = 16;
const MAX_BYTES = 16 * 1024 * 1024;

/** The images of the message that is being written. `list` is the element that shows them. */
export class Attachments {
  #images = [];
  #list;
  #complain;

  /** `complain(text)` tells what could not be taken; "" takes it back. */
  constructor(list, complain) {
    this.#list = list;
    this.#complain = complain;
  }

  get isEmpty() {
    return this.#images.length === 0;
  }

  /** Hand over the images, and begin anew. */
  take() {
    const taken = this.#images;
    this.#images = [];
    this.#show();
    return taken;
  }

  async add(files) {
    const refused = [];
    for (const file of files) {
      const why = this.#refusal(file);
      if (why) refused.push(`${file.name || "The image"} ${why}`);
      else this.#images.push({ name: file.name || "pasted image", url: await dataUrl(file) });
    }
    this.#complain(refused.join(" "));
    this.#show();
    if (this.#images.length) announce(`${plural(this.#images.length, "image")} attached.`);
  }

  #refusal(file) {
    if (!KINDS.includes(file.type)) return "is no PNG, JPEG or WebP image.";
    if (file.size > MAX_BYTES) return "is larger than 16 MiB.";
    if (this.#images.length >= MAX_IMAGES) return `is one too many: a message holds ${MAX_IMAGES} images.`;
    return "";
  }

  #remove(image) {
    this.#images = this.#images.filter((one) => one !== image);
    this.#show();
    announce(`${image.name} removed.`);
  }

  #show() {
    this.#list.replaceChildren(
      ...this.#images.map((image) =>
        el(
          "li",
          {},
          el("img", { src: image.url, alt: image.name }),
          button(
            { class: "remove", "aria-label": `Remove ${image.name}`, on: { click: () => this.#remove(image) } },
            icon("close"),
          ),
        ),
      ),
    );
    this.#list.hidden = this.isEmpty;
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

/** Take images that are pasted anywhere, or dropped on `target`, which gets the class `dropping` meanwhile. */
export function acceptImages(target, attachments) {
  document.addEventListener("paste", (event) => {
    const files = imagesOf(event.clipboardData);
    if (files.length) {
      event.preventDefault();
      attachments.add(files);
    }
  });
  let depth = 0;
  const settle = (change) => {
    depth = change === 0 ? 0 : depth + change;
    target.classList.toggle("dropping", depth > 0);
  };
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  target.addEventListener("dragenter", (event) => holdsFiles(event) && settle(1));
  target.addEventListener("dragleave", (event) => holdsFiles(event) && settle(-1));
  target.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  target.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    settle(0);
    attachments.add([...event.dataTransfer.files]);
  });
}

function imagesOf(data) {
  return [...(data?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
