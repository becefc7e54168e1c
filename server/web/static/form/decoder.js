/** Which decoder is asked, what is asked of it alone, and the presets, which fill in what a published loop has. */

import { element } from "../view/element.js";
import { select } from "./select.js";

/** What is said of a decoder whose samples have no law of the model's. */
const LAWLESS = "approximate: not the model's law";

/**
 * As `/models` tells those of a model, the default one first.
 * @typedef {{name: string, description: string, minimum: ?number, exclusive_minimum: ?number, maximum: ?number}} Option
 * @typedef {{name: string, summary: string, law: string, options: Option[]}} Sampler
 */

export class DecoderChoice {
  /** @param {() => void} onChange @param {(preset: Record<string, any>) => void} onPreset its fields are to be filled in */
  constructor(onChange, onPreset) {
    /** @type {Sampler[]} */
    this.offered = [];
    /** Presets by name, each with its fields. */
    this.presets = {};
    this.choice = select("decoder", "Decoder");
    /** Of any but the default one it is said what it does without being asked. */
    this.about = element("p", { class: "about", id: "decoder-about" });
    this.choice.input.setAttribute("aria-describedby", "decoder-help decoder-about decoder-problem");
    this.choice.input.addEventListener("change", () => {
      this._tell();
      onChange();
    });
    this.preset = select("preset", "Preset");
    this.preset.help.textContent = "fills in what the loop of its authors has; everything can be changed afterwards";
    this.preset.input.addEventListener("change", () => {
      if (this.preset.input.value !== "") onPreset(this.presets[this.preset.input.value]);
    });
    this.title = element("summary");
    this.fields = element("div", { class: "fields" });
    this.fold = element("details", { class: "more" }, this.title, element("div", { class: "options" }, this.preset.element, this.fields));
  }

  /** The endpoint's fields. @param {import("./schema.js").Field[]} fields @param {Map<string, import("./field.js").FieldControl>} controls */
  build(fields, controls) {
    this.known = fields.some(({ name }) => name === "sampler");
    const { presets, options } = fields.find(({ name }) => name === "preset") ?? {};
    this.presets = presets ? Object.fromEntries(options.map((name) => [name, presets[name]])) : {};
    this._controls = fields.filter(({ samplers }) => samplers !== null).map(({ name }) => controls.get(name));
    this.fields.replaceChildren(...this._controls.map((control) => control.element));
  }

  /** Offer what this model can be asked; what was chosen stays where it fits. @param {{samplers?: Sampler[], process: string}} model */
  offer(model) {
    const before = this.choice.input.value;
    this.offered = (this.known && model.samplers) || [];
    this.choice.input.replaceChildren(...this.offered.map(({ name }) => element("option", { value: name }, name)));
    this.choice.element.hidden = this.offered.length === 0;
    this.write(before);
    if (before !== "" && this.offered.length > 0 && this.name !== before) this.choice.complain(`${before} is not for the ${model.process} process`);
    const fitting = Object.keys(this.presets).filter((preset) => this._has(this.presets[preset].sampler));
    const options = fitting.map((preset) => element("option", { value: preset }, preset));
    this.preset.input.replaceChildren(element("option", { value: "" }, "—"), ...options);
    this.preset.element.hidden = fitting.length === 0;
  }

  /** The sampler's name; null where there is no choice. */
  get name() {
    return this.choice.input.value || null;
  }

  /** What is sent: undefined for the default. */
  read() {
    return this.name === null || this.name === this.offered[0].name ? undefined : this.name;
  }

  /** Choose a sampler; undefined for the default. @returns {boolean} whether it is offered */
  write(name) {
    const known = name === undefined || this._has(name);
    this.choice.input.value = known && name !== undefined ? name : (this.offered[0]?.name ?? "");
    this._tell();
    return known;
  }

  /** Show which preset is filled in; none for undefined. */
  mark(preset) {
    this.preset.input.value = preset ?? "";
  }

  /** Whether a field means something to the decoder that is chosen. @param {import("./schema.js").Field} field */
  takes({ name, samplers }) {
    return samplers === null || this._optionOf(name) !== undefined;
  }

  /** @returns {Option | undefined} */
  _optionOf(name) {
    return this.chosen?.options.find((option) => option.name === name);
  }

  /** @returns {?Sampler} */
  get chosen() {
    return this.offered.find(({ name }) => name === this.choice.input.value) ?? null;
  }

  /** The controls of what is asked of it alone. */
  get options() {
    return this._controls.filter(({ field }) => this.takes(field));
  }

  _has(name) {
    return this.offered.some((sampler) => sampler.name === name);
  }

  _tell() {
    this.choice.complain(null);
    const { chosen } = this;
    const words = chosen === null ? "" : `${chosen.summary}; ${chosen.law === "" ? LAWLESS : `law: ${chosen.law}`}`;
    const isDefault = chosen === null || chosen === this.offered[0];
    this.choice.help.textContent = isDefault ? words : "";
    this.choice.help.hidden = !isDefault;
    this.about.textContent = isDefault ? "" : words;
    this.about.hidden = isDefault;
    for (const control of this._controls) {
      const option = this._optionOf(control.field.name);
      control.element.hidden = option === undefined;
      if (option === undefined) continue;
      const { description, minimum, maximum, exclusive_minimum: above } = option;
      control.describe({ description, minimum: above ?? minimum, maximum, exclusive: above !== null });
    }
    this.title.textContent = `Options of ${this.name}`;
    this.fold.hidden = this.options.length === 0 && this.preset.element.hidden;
  }
}
