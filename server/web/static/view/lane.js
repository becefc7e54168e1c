/** One run on the page: its name, its canvas, and the lines below that say how it is. */

import { sentenceOf } from "../run/run.js";
import { Canvas } from "./canvas.js";
import { element, visible } from "./element.js";

/** Milliseconds between two texts for a screen reader while a run is playing. */
const DESCRIBE_MS = 1500;
const HINT = "Point at a token to see which step set it.";
/** Most of what a token was before that is told of it. */
const LONGEST_PAST = 5;

export class Lane {
  /** @param {{onRetry: (run: import("../run/run.js").Run) => void}} does */
  constructor({ onRetry }) {
    this.run = null;
    this.title = element("h3", { class: "lane-title" });
    this.facts = element("p", { class: "facts" });
    this.banner = element("p", { class: "banner", role: "alert", hidden: true });
    this.bannerText = element("span", { dir: "auto" });
    const again = element("button", { type: "button", class: "quiet" }, "Run again");
    again.addEventListener("click", () => onRetry(this.run));
    this.again = again;
    this.banner.append(this.bannerText, again);
    this.inspector = element("p", { class: "inspector", dir: "auto" });
    this.canvas = new Canvas((sample, position) => {
      this._pointed = { sample, position };
      this._inspect();
    });
    this.element = element("section", { class: "lane" }, this.title, this.banner, this.canvas.element, this.facts, this.inspector);
    this._described = 0;
    /** The cell last pointed at. @type {?{sample: number, position: number}} */
    this._pointed = null;
  }

  /** Show this run from now on. @param {import("../run/run.js").Run} run */
  show(run, title) {
    this.run = run;
    this.canvas.clear();
    this.title.textContent = title;
    this.title.hidden = title === "";
    this.element.setAttribute("aria-label", title === "" ? "Samples" : title);
    this.facts.textContent = "";
    this._pointed = null;
    this._inspect();
  }

  /** Draw the state at `index`. */
  draw(index, how, still) {
    const { run } = this;
    this._say(sentenceOf(run));
    if (run.recording === null) return;
    this.canvas.draw(run, index, how);
    const facts = factsOf(run, index, this.canvas.frame);
    if (this.facts.textContent !== facts) this.facts.textContent = facts;
    this._inspect();
    const now = performance.now();
    if (still || now - this._described > DESCRIBE_MS) {
      this._described = now;
      this.canvas.describe();
    }
  }

  _say(sentence) {
    const text = visible(sentence);
    this.banner.hidden = text === "";
    this.again.hidden = this.run.status !== "failed" || this.run.error?.code === 422;
    if (this.bannerText.textContent !== text) this.bannerText.textContent = text;
    this.banner.setAttribute("role", this.run.status === "failed" ? "alert" : "status");
  }

  /** What there is to say of the cell that was pointed at, in the state that is drawn. */
  _inspect() {
    const words = () => (this._pointed === null ? HINT : this._wordsOf(this._pointed));
    const text = this.canvas.frame === null ? "" : words();
    if (this.inspector.textContent === text) return;
    this.inspector.textContent = text;
    if (this._pointed !== null) this.canvas.tell(this._pointed, text);
  }

  _wordsOf({ sample, position }) {
    const { frame } = this.canvas;
    const { recording, vocabulary } = this.run;
    const cell = sample * recording.length + position;
    const named = (id) => `“${visible(id === vocabulary.mask ? vocabulary.model.mask_token : vocabulary.label(id))}”`;
    const id = frame.tokens[cell];
    const parts = [`position ${position}`, `token ${id} ${named(id)}`];
    const past = recording.historyOf(cell, frame.index);
    const happened = ({ token, ...when }, name) => `${token === vocabulary.mask ? "taken back" : name} ${whenOf(when)}`;
    if (past.length > 0) parts.push(happened(past.pop(), "set"));
    if (past.length > 0) {
      const told = past.slice(-LONGEST_PAST).map((each) => happened(each, named(each.token)));
      parts.push(`before: ${past.length > LONGEST_PAST ? "…, " : ""}${told.join(", then ")}`);
    }
    return parts.join(" · ");
  }
}

/** When something was set, and how probable it was then. */
function whenOf({ step, logprob }) {
  return `at step ${step}${Number.isNaN(logprob) ? "" : `, ${probability(logprob)}`}`;
}

function probability(logprob) {
  const value = Math.exp(logprob);
  return value < 0.01 ? "p < 0.01" : `p = ${value.toFixed(2)}`;
}

/** Where the run is, and what it has cost. */
function factsOf({ recording, status, settings }, index, frame) {
  const state = index === 0 ? { step: 0, t: 1, nfe: 0 } : recording.states[index - 1];
  const steps = recording.numSteps;
  const parts = [
    `step ${state.step}${steps === null ? "" : ` of ${steps}`}`,
    `t ${state.t.toFixed(3)}`,
    `${state.nfe} network calls`,
  ];
  if (frame?.rewrites > 0) parts.push(frame.rewrites === 1 ? "1 rewrite" : `${frame.rewrites} rewrites`);
  const { done } = recording;
  if (done !== null && index >= recording.numStates) {
    const { completion_tokens: tokens, forwards_skipped: skipped } = done.usage;
    const seconds = done.timings.total_ms / 1000;
    const ended = done.samples.filter(({ finish_reason: reason }) => reason === "stop").length;
    if (ended > 0) parts.push(done.samples.length === 1 ? "its text ends early" : `${ended} texts end early`);
    if (skipped > 0) parts.push(`${skipped} steps needed none`);
    parts.push(`${tokens} tokens in ${seconds.toFixed(2)} s`, `${Math.round(tokens / Math.max(seconds, 1e-3))} tokens/s`);
  }
  const sampler = recording.start.sampler ?? settings.parameters.sampler;
  if (typeof sampler === "string" && sampler !== "ancestral") parts.push(visible(sampler));
  parts.push(`seed ${recording.start.seed}`, visible(recording.start.model));
  if (status === "stopped") parts.push("stopped");
  return parts.join(" · ");
}
