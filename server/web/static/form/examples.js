/** Requests to begin with, made of what the server has: one press runs one, and a line says what there is to see. */

import { byId, element } from "../view/element.js";
import { fits } from "./schema.js";
import { gapped } from "./texts.js";

/** Below 1, as a small model's tails are noise: words that are none, above all. */
const TEMPERATURE = 0.8;

/** What each example is called, and what there is to see in it. */
const TOLD = {
  beginning: ["Go on with a beginning", "The beginning is given, the rest is blank. Each step fills in a few tokens, anywhere; what is set stays."],
  blanks: ["Out of blanks", "All tokens begin blank, and are filled in in any order: the text has no beginning before it has one."],
  gaps: ["Fill in the gaps", "Only the gaps are blank: the model sees the text on both sides of each of them."],
  words: ["Out of random words", "All tokens begin as random words. Each step rewrites a few, until they fit each other."],
  mind: ["Change its mind", "Blanks are filled in, and what is set may still be rewritten: those tokens are underlined."],
  right: ["Put it right", "When all is set, the token that fits least is drawn anew, again and again: those are underlined."],
  blocks: ["Block by block", "Blocks are finished from left to right; within a block the order is free."],
  steps: ["Few steps or many", "The same seed twice. In few steps many tokens are set at once, without knowing each other."],
  surest: ["The surest first", "What the model is surest of is set first. The colours say how sure it was of each token."],
  back: ["Take it back", "What is set may become blank again, and be filled in anew: those tokens are underlined."],
};

/** @typedef {{title: string, lesson: string, settings: import("./form.js").Settings[]}} Example */

export class Examples {
  /** @param {(example: Example) => void} onChoose */
  constructor(onChoose) {
    this._onChoose = onChoose;
    /** @type {Example[]} */
    this.all = [];
    this._buttons = [];
  }

  /** Offer what this server can do. @param {Map<string, import("./texts.js").Text>} texts of the models that can spell one */
  offer(endpoints, models, texts) {
    this.all = examplesFor(endpoints, models, texts);
    this._buttons = this.all.map((example) => {
      const button = element("button", { type: "button", class: "example" }, example.title);
      button.addEventListener("click", () => this._onChoose(example));
      return button;
    });
    byId("examples").replaceChildren(...this._buttons);
    this.mark(null);
  }

  /** This one is shown; null for none of them. @param {?Example} example */
  mark(example) {
    this._buttons.forEach((button, index) => {
      if (this.all[index] === example) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    byId("lesson").textContent = example?.lesson ?? "";
    byId("lesson").hidden = example === null;
  }
}

/**
 * @param {import("./schema.js").Endpoint[]} endpoints
 * @param {{name: string, process: string, mask_token: string, max_seq_len: ?number, block_size: ?number, samplers?: {name: string}[]}[]} models
 * @param {Map<string, import("./texts.js").Text>} texts
 * @returns {Example[]}
 */
function examplesFor(endpoints, models, texts) {
  const found = [];
  const offer = ([title, lesson], path, process, ...all) => {
    const endpoint = endpoints.find((each) => each.path === path);
    const model = endpoint && models.find((each) => each.process === process && fits(endpoint, each));
    if (!model) return;
    const asked = all.map((make) => make(model, texts.get(model.name)));
    if (asked.includes(undefined)) return; // it can spell no text
    const settings = asked.map((each) => ({ endpoint: path, parameters: { model: model.name, temperature: TEMPERATURE, ...within(model, each) } }));
    const decodes = ({ parameters: { sampler } }) => sampler === undefined || model.samplers?.some(({ name }) => name === sampler);
    if (settings.every(decodes)) found.push({ title, lesson, settings });
  };
  const begun = (_, text) => text && { prompt: text.beginning, seq_len: 96, num_inference_steps: 96 };
  const gaps = ({ mask_token: mask }, text) => text && { template: gapped(text, mask), num_inference_steps: 24 };
  offer(TOLD.beginning, "/sample", "absorbing", begun);
  offer(TOLD.blanks, "/sample", "absorbing", () => ({ seq_len: 64, num_inference_steps: 64 }));
  offer(TOLD.gaps, "/sample", "absorbing", gaps);
  offer(TOLD.words, "/sample", "uniform", () => ({ seq_len: 64, num_inference_steps: 64 }));
  offer(TOLD.mind, "/sample/hybrid", "hybrid", () => ({ seq_len: 64, num_inference_steps: 64 }));
  offer(TOLD.right, "/sample/hybrid", "hybrid", () => ({ sampler: "self_correction", seq_len: 64, num_inference_steps: 32 }));
  offer(TOLD.blocks, "/sample/block", "absorbing", ({ block_size: own }) => ({ seq_len: 96, num_inference_steps: 16, block_size: own ?? 16 }));
  offer(
    TOLD.steps,
    "/sample",
    "absorbing",
    () => ({ seq_len: 64, num_inference_steps: 4 }),
    () => ({ seq_len: 64, num_inference_steps: 128 }),
  );
  const surest = { sampler: "confidence", seq_len: 64, num_inference_steps: 32, logprobs: true };
  offer(TOLD.surest, "/sample", "absorbing", () => surest);
  offer(TOLD.back, "/sample", "absorbing", () => ({ sampler: "remdm", seq_len: 64, num_inference_steps: 64 }));
  return found;
}

/** No longer than the model's sequences. */
function within({ max_seq_len: longest }, { seq_len: length, ...others }) {
  return length === undefined ? others : { seq_len: Math.min(length, longest ?? length), ...others };
}
