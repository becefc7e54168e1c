/** The form of a request: endpoint, model, text and every other field of the endpoint's schema. */

import { element } from "../view/element.js";
import { Composer } from "./composer.js";
import { FieldControl } from "./field.js";
import { fits } from "./schema.js";

/** What is meant by a process, for who has not met it. */
const PROCESSES = {
  absorbing: "absorbing: it begins with blanks, and what is set stays",
  uniform: "uniform: it begins with random words, and may rewrite any of them",
  hybrid: "hybrid: it begins with blanks, and may rewrite what it has set",
};
/** Fields in front, in this order; all others are in the fold. */
const FRONT = ["seq_len", "num_inference_steps", "temperature", "seed", "num_samples", "block_size"];
/** What the composer and the model's choice are for, and what the page decides by itself: it streams, and comes back. */
const ELSEWHERE = new Set(["prompt", "template", "model", "stream", "on_disconnect"]);

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
    this._onChange = onChange;
    this.composer = new Composer(onChange);
    this.endpoint = select("endpoint", "Endpoint");
    this.endpoint.input.append(...endpoints.map(({ path, title }) => element("option", { value: path }, title)));
    this.model = select("model", "Model");
    this.front = element("div", { class: "fields" });
    this.rest = element("div", { class: "fields" });
    this.more = element("details", { class: "more" }, element("summary", {}, "More"), this.rest);
    const choices = element("div", { class: "choices" }, this.model.element, this.endpoint.element);
    place.replaceChildren(this.composer.element, choices, this.front, this.more);
    this.endpoint.input.addEventListener("change", () => {
      this._build();
      onChange();
    });
    this.model.input.addEventListener("change", () => {
      this._choose();
      onChange();
    });
    this.controls = new Map();
    this._build();
  }

  /** @returns {?Settings} null where something cannot be sent: then it says so */
  read() {
    const parameters = this.composer.read();
    if (this.model.input.value !== "") parameters.model = this.model.input.value;
    let first = null;
    for (const [name, control] of this.controls) {
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
  write({ endpoint, parameters }) {
    const known = this.endpoints.some(({ path }) => path === endpoint);
    if (known) this.endpoint.input.value = endpoint;
    this._build();
    this.composer.write(parameters);
    const model = parameters.model ?? "";
    const models = this.models.map(({ name }) => name);
    this.model.input.value = models.includes(model) ? model : "";
    this._choose();
    for (const [name, control] of this.controls) control.write(parameters[name]);
    if (this._hidden().some(({ name }) => parameters[name] !== undefined)) this.more.open = true;
    const unknown = Object.keys(parameters).filter((name) => !this.controls.has(name) && !ELSEWHERE.has(name));
    if (!known) unknown.unshift(endpoint);
    if (model !== "" && !models.includes(model)) unknown.push(`model ${model}`);
    return unknown;
  }

  /** Show a refusal next to the field that it names. @returns {boolean} whether there is one */
  refuse({ param, message }) {
    if (param === "prompt" || param === "template") {
      this.composer.complain(message);
      this._show(this.composer.input);
      return true;
    }
    const named = param === "endpoint" ? this.endpoint : param === "model" ? this.model : null;
    const control = named ?? this.controls.get(param);
    if (control === undefined) return false;
    control.complain(message);
    this._show(control.input);
    return true;
  }

  /** Take all refusals back. */
  forgive() {
    for (const control of [this.composer, this.model, ...this.controls.values()]) control.complain(null);
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
  }

  _hidden() {
    return [...this.controls.values()].map(({ field }) => field).filter(({ name }) => !FRONT.includes(name));
  }

  _show(input) {
    const fold = input.closest("details");
    if (fold !== null) fold.open = true;
    input.focus();
  }
}

/** A labelled choice, with help and place for a complaint. */
function select(id, label) {
  const input = element("select", { id, "aria-describedby": `${id}-help ${id}-problem` });
  const help = element("p", { class: "help", id: `${id}-help` });
  const problem = element("p", { class: "problem", id: `${id}-problem`, hidden: true });
  const complain = (message) => {
    problem.textContent = message ?? "";
    problem.hidden = message === null;
  };
  return { input, help, complain, element: element("div", { class: "field" }, element("label", { for: id }, label), input, help, problem) };
}
