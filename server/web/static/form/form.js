/** The form of a request: endpoint, model, text and every other field of the endpoint's schema. */

import { element } from "../view/element.js";
import { Composer } from "./composer.js";
import { DecoderChoice } from "./decoder.js";
import { FieldControl } from "./field.js";
import { fits } from "./schema.js";
import { select } from "./select.js";

/** What is meant by a process, for who has not met it. */
const PROCESSES = {
  absorbing: "absorbing: it begins with blanks, which are filled in",
  uniform: "uniform: it begins with random words, and may rewrite any of them",
  hybrid: "hybrid: it begins with blanks, and may rewrite what it has set",
};
/** Fields in front, in this order; all others are in the fold. */
const FRONT = ["seq_len", "num_inference_steps", "temperature", "seed", "num_samples", "block_size"];
/** What has a place of its own, and what the page decides by itself: it streams, comes back, and asks for what it colours by. */
const ELSEWHERE = new Set(["prompt", "template", "model", "sampler", "preset", "stream", "on_disconnect", "logprobs"]);
/** What a sample can be guided by, beside the composer's text; guidance means nothing without. */
const GUIDING = ["label", "prompt_ids", "template_ids", "messages"];

/** @typedef {{endpoint: string, parameters: Record<string, any>}} Settings what is sent, and where */

export class Form {
  /**
   * @param {HTMLElement} place
   * @param {import("./schema.js").Endpoint[]} endpoints
   * @param {{name: string, process: string, mask_token: string}[]} models
   * @param {() => void} onChange
   */
  constructor(place, endpoints, models, onChange) {
    this.endpoints = endpoints;
    this.models = models;
    this._onChange = () => {
      this._adapt();
      onChange();
    };
    this.composer = new Composer(this._onChange);
    this.endpoint = select("endpoint", "Endpoint");
    this.endpoint.input.append(...endpoints.map(({ path, title }) => element("option", { value: path }, title)));
    this.model = select("model", "Model");
    this.front = element("div", { class: "fields" });
    this.rest = element("div", { class: "fields" });
    this.more = element("details", { class: "more" }, element("summary", {}, "More"), this.rest);
    this.decoder = new DecoderChoice(this._onChange, (preset) => this._fill(preset));
    const { choice, about } = this.decoder;
    const choices = element("div", { class: "choices" }, this.model.element, this.endpoint.element, choice.element, about);
    place.replaceChildren(this.composer.element, choices, this.front, this.decoder.fold, this.more);
    this.endpoint.input.addEventListener("change", () => {
      this._build();
      this._onChange();
    });
    this.model.input.addEventListener("change", () => {
      this._choose();
      this._onChange();
    });
    this.controls = new Map();
    this._build();
  }

  /** @returns {?Settings} null where something cannot be sent: then it says so */
  read() {
    const parameters = this.composer.read();
    if (this.model.input.value !== "") parameters.model = this.model.input.value;
    const sampler = this.decoder.read();
    if (sampler !== undefined) parameters.sampler = sampler;
    let first = null;
    for (const [name, control] of this.controls) {
      if (!this.decoder.takes(control.field)) continue;
      try {
        const value = control.read();
        if (value !== undefined) parameters[name] = value;
      } catch (error) {
        control.complain(error.message);
        first ??= control;
      }
    }
    if (first === null) return { endpoint: this.endpoint.input.value, parameters };
    this._show(first.input);
    return null;
  }

  /** @param {Settings} settings @returns {string[]} names that this server does not know */
  write({ endpoint, parameters: given }) {
    const known = this.endpoints.some(({ path }) => path === endpoint);
    if (known) this.endpoint.input.value = endpoint;
    this._build();
    const { preset, ...own } = given;
    const parameters = { ...(this.decoder.presets[preset] ?? {}), ...own };
    this.composer.write(parameters);
    const model = parameters.model ?? "";
    const models = this.models.map(({ name }) => name);
    this.model.input.value = models.includes(model) ? model : "";
    this._choose();
    const decodes = this.decoder.write(parameters.sampler);
    for (const [name, control] of this.controls) control.write(parameters[name]);
    if (this._hidden().some(({ name }) => parameters[name] !== undefined)) this.more.open = true;
    if (this.decoder.options.some(({ field }) => parameters[field.name] !== undefined)) this.decoder.fold.open = true;
    this._adapt();
    const unknown = Object.keys(own).filter((name) => !this.controls.has(name) && !ELSEWHERE.has(name));
    for (const [name, { field }] of this.controls) {
      if (own[name] !== undefined && !this.decoder.takes(field)) unknown.push(`${name} of ${this.decoder.name}`);
    }
    if (!known) unknown.unshift(endpoint);
    if (model !== "" && !models.includes(model)) unknown.push(`model ${model}`);
    if (!decodes) unknown.push(`sampler ${parameters.sampler}`);
    if (preset != null && !Object.hasOwn(this.decoder.presets, preset)) unknown.push(`preset ${preset}`);
    return unknown;
  }

  /** Show a refusal next to the field that it names. @returns {boolean} whether there is one */
  refuse({ param, message }) {
    if (param === "prompt" || param === "template") {
      this.composer.complain(message);
      this._show(this.composer.input);
      return true;
    }
    const named = new Map([["endpoint", this.endpoint], ["model", this.model], ["sampler", this.decoder.choice]]);
    const control = named.get(param) ?? this.controls.get(param);
    if (control === undefined || control.element.hidden) return false;
    control.complain(message);
    this._show(control.input);
    return true;
  }

  /** Take all refusals back. */
  forgive() {
    for (const control of [this.composer, this.model, this.decoder.choice, ...this.controls.values()]) control.complain(null);
  }

  /** The endpoint that is chosen. */
  get chosen() {
    return this.endpoints.find(({ path }) => path === this.endpoint.input.value);
  }

  /** The model that will be asked, if any fits. */
  get asked() {
    const named = this.models.find(({ name }) => name === this.model.input.value);
    return named ?? this.models.find((model) => fits(this.chosen, model));
  }

  _build() {
    const kept = new Map([...this.controls].map(([name, control]) => [name, control.input.value]));
    const fields = this.chosen.fields.filter(({ name }) => !ELSEWHERE.has(name));
    const inFront = FRONT.map((name) => fields.find((field) => field.name === name)).filter(Boolean);
    const ordered = [...inFront, ...fields.filter((field) => !inFront.includes(field))];
    this.controls = new Map(ordered.map((field) => [field.name, new FieldControl(field, this._onChange)]));
    for (const [name, control] of this.controls) {
      if (control.field.kind !== "boolean" && kept.has(name)) control.input.value = kept.get(name);
    }
    this.front.replaceChildren(...inFront.map(({ name }) => this.controls.get(name).element));
    this.rest.replaceChildren(...this._hidden().map(({ name }) => this.controls.get(name).element));
    this.more.hidden = this._hidden().length === 0;
    this.decoder.build(this.chosen.fields, this.controls);
    this.endpoint.help.textContent = this.chosen.description;
    this._offerModels();
  }

  _offerModels() {
    const chosen = this.model.input.value;
    const first = this.models.find((model) => fits(this.chosen, model));
    const options = this.models.map((model) => {
      const fitting = fits(this.chosen, model);
      const kind = model.family ? `${model.family}, ${model.process}` : model.process;
      const text = `${model.name} (${kind}${fitting ? "" : `, not at ${this.chosen.path}`})`;
      return element("option", { value: model.name, disabled: !fitting }, text);
    });
    const automatic = first === undefined ? "none of the models fits" : `automatic (${first.name})`;
    this.model.input.replaceChildren(element("option", { value: "" }, automatic), ...options);
    const still = this.models.find(({ name }) => name === chosen);
    const stays = still !== undefined && fits(this.chosen, still);
    this.model.input.value = stays ? chosen : "";
    this._choose();
    if (still !== undefined && !stays) this.model.complain(`${chosen} is ${still.process}: not at ${this.chosen.path}`);
  }

  _choose() {
    this.model.complain(null);
    if (this.asked === undefined) return;
    this.composer.setMask(this.asked.mask_token);
    this.model.help.textContent = PROCESSES[this.asked.process] ?? this.asked.process;
    this.decoder.offer(this.asked);
    this._adapt();
  }

  /** Show what means something beside what is filled in, and which preset that is. */
  _adapt() {
    const guidance = this.controls.get("guidance_scale");
    if (guidance !== undefined) {
      const guided = this.composer.input.value !== "" || GUIDING.some((name) => this._valueOf(name) !== undefined);
      guidance.element.hidden = !guided && guidance.input.value === "";
    }
    const presets = Object.entries(this.decoder.presets);
    this.decoder.mark(presets.find(([, fields]) => this._isFilledIn(fields))?.[0]);
  }

  /** Fill in a preset; what is asked of the decoder beyond it is taken back. */
  _fill(preset) {
    this.decoder.write(preset.sampler);
    for (const control of this.decoder.options) control.write(undefined);
    for (const [name, value] of Object.entries(preset)) this.controls.get(name)?.write(value);
    this._onChange();
  }

  _isFilledIn(preset) {
    if (preset.sampler !== this.decoder.name) return false;
    const beyond = this.decoder.options.filter(({ field }) => !(field.name in preset));
    const fields = Object.entries(preset).filter(([name]) => this.controls.has(name));
    const holds = ([name, value]) => (this._valueOf(name) ?? this.controls.get(name).field.default) === value;
    return fields.every(holds) && beyond.every(({ field }) => this._valueOf(field.name) === undefined);
  }

  /** What a field is asked for; undefined for nothing, or for what cannot be read. */
  _valueOf(name) {
    try {
      return this.controls.get(name)?.read();
    } catch {
      return undefined;
    }
  }

  /** The fields in the fold of all the rest. */
  _hidden() {
    return [...this.controls.values()].map(({ field }) => field).filter(({ name, samplers }) => !FRONT.includes(name) && samplers === null);
  }

  _show(input) {
    const fold = input.closest("details");
    if (fold !== null) fold.open = true;
    input.focus();
  }
}
