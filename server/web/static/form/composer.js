/** The text box for prompt and template: a text with holes is a template, one without is a prompt. */

import { complain, element } from "../view/element.js";

/** Three underscores are a hole of one token, each further one a token more. */
const HOLE = /_{3,}/g;

export class Composer {
  /** @param {() => void} onChange */
  constructor(onChange) {
    this.mask = "[MASK]";
    this.input = element("textarea", {
      id: "prompt",
      rows: 3,
      dir: "auto",
      placeholder: "Leave it empty, begin a text, or leave ____ in it",
      "aria-describedby": "prompt-help prompt-problem",
    });
    this.holes = element("input", { type: "checkbox", id: "prompt-holes", checked: true });
    this.holesRow = element("label", { for: "prompt-holes", class: "none", hidden: true }, this.holes, " fill the holes");
    const insert = element("button", { type: "button", class: "quiet" }, "Insert hole");
    insert.addEventListener("click", () => this._insert("____"));
    this.problem = element("p", { class: "problem", id: "prompt-problem", hidden: true });
    this.help = element("p", { class: "help", id: "prompt-help" });
    this.element = element(
      "div",
      { class: "field composer" },
      element("div", { class: "row" }, element("label", { for: "prompt" }, "Prompt"), insert),
      this.input,
      this.holesRow,
      this.help,
      this.problem,
    );
    this.element.addEventListener("input", () => {
      this._tell();
      this.complain(null);
      onChange();
    });
    this._tell();
  }

  /** `{prompt}`, `{template}` or nothing. */
  read() {
    const text = this.input.value;
    if (text === "") return {};
    if (!this._hasHoles() || !this.holes.checked) return { prompt: text };
    return { template: text.replace(HOLE, (line) => this.mask.repeat(line.length - 2)) };
  }

  /** Show a request's prompt or template. */
  write({ prompt, template }) {
    this.input.value = String(template ?? prompt ?? "");
    if (template != null) {
      this.input.value = String(template).replace(this._masks("g"), (masks) => "_".repeat(masks.length / this.mask.length + 2));
    }
    this.holes.checked = prompt == null;
    this._tell();
    this.complain(null);
  }

  /** Show a message next to the box; null for none. */
  complain(message) {
    complain(this.input, this.problem, message);
  }

  /** The spelling of a mask in the model that is asked. */
  setMask(mask) {
    this.mask = mask;
    this._tell();
  }

  _masks(flags) {
    return new RegExp(`(?:${this.mask.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})+`, flags);
  }

  _hasHoles() {
    return this.input.value.search(HOLE) >= 0 || this._masks("").test(this.input.value);
  }

  _tell() {
    const holes = this._hasHoles();
    this.holesRow.hidden = !holes;
    this.help.textContent =
      holes && this.holes.checked
        ? `Everything but the holes stays: ___ is one token, ____ two, and so on; ${this.mask} is one, too.`
        : "The beginning of each sample. With holes, ____, the gaps are filled instead.";
  }

  _insert(text) {
    this.input.focus();
    this.input.setRangeText(text, this.input.selectionStart, this.input.selectionEnd, "end");
    this.holes.checked = true;
    this.input.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
