/** One control of the form, made from a field of the schema: reads and shows a value, and says what is wrong with it. */

import { complain, element } from "../view/element.js";

let count = 0;

/** @typedef {import("./schema.js").Field} Field */

export class FieldControl {
  /** @param {Field} field */
  constructor(field, onChange) {
    this.field = field;
    const id = `field-${(count += 1)}`;
    this.input = inputOf(field, id);
    this.none = field.nullable && field.default != null ? element("input", { type: "checkbox", id: `${id}-none` }) : null;
    this.problem = element("p", { class: "problem", id: `${id}-problem`, hidden: true });
    this.help = element("p", { class: "help", id: `${id}-help` }, helpOf(field));
    this.input.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
    const label = element("label", { for: id }, ...breakable(field.name));
    const rows = [label, this.input, this.help, this.problem];
    if (this.none !== null) {
      const name = element("span", { class: "visually-hidden" }, `${field.name}: `);
      rows.splice(2, 0, element("label", { class: "none", for: this.none.id }, this.none, name, "null"));
      this.none.addEventListener("change", () => (this.input.disabled = this.none.checked));
    }
    this.element = element("div", { class: field.kind === "boolean" ? "field check" : "field" }, ...rows);
    this.element.addEventListener("input", () => {
      this.complain(null);
      onChange();
    });
  }

  /** What is sent: undefined for nothing. Throws an Error whose message says what is wrong. */
  read() {
    if (this.none?.checked) return null;
    if (this.field.kind === "boolean") {
      const fallback = this.field.default ?? false;
      return this.input.checked === fallback ? undefined : this.input.checked;
    }
    if (this.field.kind === "choice" && this.input.value === this.field.default) return undefined;
    if (this.input.validity?.badInput) throw new Error(`${this.field.name} must be a number`);
    return valueOf(this.field, this.input.value);
  }

  /** Show a value; undefined for the default. */
  write(value) {
    if (this.none !== null) {
      this.none.checked = value === null;
      this.input.disabled = value === null;
    }
    if (this.field.kind === "boolean") this.input.checked = value ?? this.field.default ?? false;
    else if (this.field.kind === "choice") this.input.value = value ?? this.field.default ?? "";
    else this.input.value = textOf(this.field, value);
    this.complain(null);
  }

  /** Say what it means to the decoder that is chosen. @param {Pick<Field, "description" | "minimum" | "maximum" | "exclusive">} words */
  describe(words) {
    this.help.textContent = helpOf({ ...words, kind: this.field.kind });
  }

  /** Show a message next to the control; null for none. */
  complain(message) {
    complain(this.input, this.problem, message);
  }
}

/** A name that may break after each underscore. */
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, index) => (index === 0 ? [part] : [element("wbr"), part]));
}

/** The value that `text` spells: undefined where it spells none. */
export function valueOf(field, text) {
  const trimmed = text.trim();
  if (field.kind === "text") return text === "" ? undefined : text;
  if (trimmed === "") return undefined;
  if (trimmed === "null" && field.nullable) return null;
  if (field.kind === "lines") {
    const lines = text.split("\n").filter((line) => line !== "");
    return lines.length === 1 ? lines[0] : lines;
  }
  if (field.kind === "choice") return text;
  if (field.kind === "boolean") return trimmed === "true";
  if (field.kind === "integers") return trimmed.split(/[\s,]+/).map((part) => numberOf(field, part));
  if (field.kind === "json") return jsonOf(field, trimmed);
  return numberOf(field, trimmed);
}

/** The text that spells `value`, so that `valueOf` reads it again. */
export function textOf(field, value) {
  if (value === undefined || value === null) return "";
  if (field.kind === "lines") return [value].flat().join("\n");
  if (field.kind === "integers") return [value].flat().join(" ");
  if (field.kind === "json" && typeof value !== "string") return JSON.stringify(value);
  return String(value);
}

function numberOf(field, text) {
  if (/^[+-]?\d+$/.test(text)) {
    const whole = Number(text);
    return Number.isSafeInteger(whole) ? whole : BigInt(text);
  }
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error(`${field.name} must be a number, got “${text.slice(0, 40)}”`);
  return value;
}

function jsonOf(field, text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${field.name} must be JSON, got “${text.slice(0, 40)}”`);
  }
}

function inputOf(field, id) {
  const placeholder = field.default == null ? "" : String(field.default);
  if (field.kind === "choice" && field.options.length > 0) {
    const options = field.options.map((option) => element("option", { value: option }, option));
    if (field.default === undefined || field.nullable) options.unshift(element("option", { value: "" }, "—"));
    const select = element("select", { id }, ...options);
    if (field.default != null) select.value = field.default;
    return select;
  }
  if (field.kind === "boolean") return element("input", { id, type: "checkbox" });
  if (field.kind === "lines") return element("textarea", { id, rows: 1, placeholder });
  if (field.kind === "integer" || field.kind === "number") {
    const step = field.kind === "integer" ? 1 : "any";
    const bounds = { min: field.exclusive ? null : field.minimum, max: field.maximum };
    return element("input", { id, type: "number", inputmode: "decimal", step, ...bounds, placeholder });
  }
  return element("input", { id, type: "text", placeholder, autocomplete: "off", spellcheck: "false" });
}

/** Description and bounds, in words. */
function helpOf({ description, minimum, maximum, exclusive, kind }) {
  const bounds = [];
  if (minimum !== null && kind !== "boolean") bounds.push(exclusive ? `above ${minimum}` : `from ${minimum}`);
  if (maximum !== null && maximum < 2 ** 31 - 1) bounds.push(`to ${maximum}`);
  if (kind === "lines") bounds.push("one a line");
  return [description, bounds.join(" ")].filter(Boolean).join("; ");
}
