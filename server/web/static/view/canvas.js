/** The cells of one run: an element a token, made and drawn only where it can be seen, and where it looks other than before. */

import { endOf } from "../run/ending.js";
import { element } from "./element.js";
import { classesOf, givenCells, lookAt, MASK } from "./look.js";

/** @typedef {"cells" | "text"} View */

/** Longest text that a screen reader is given of a sample. */
const LONGEST_READ = 4000;

export class Canvas {
  /** @param {(sample: number, position: number) => void} onPoint a cell is pointed at */
  constructor(onPoint) {
    this.element = element("div", { class: "samples" });
    this._samples = [];
    this._run = null;
    const seen = (entries) => entries.forEach(({ target, isIntersecting }) => this._see(target, isIntersecting));
    this._watcher = new IntersectionObserver(seen, { rootMargin: "200px" });
    this.element.addEventListener("pointerover", ({ target }) => {
      if (target.dataset?.position === undefined) return;
      onPoint(Number(target.parentElement.dataset.sample), Number(target.dataset.position));
    });
  }

  /** Draw a run's state at `index`. @param {{view: View, colouring: import("./look.js").Colouring}} how */
  draw(run, index, how) {
    const { recording, vocabulary } = run;
    if (recording === null || vocabulary === null) return;
    if (run !== this._run || vocabulary !== this._vocabulary) this._build(run);
    const state = `${index} ${how.view} ${how.colouring} ${recording.done !== null} ${recording.numStates}`;
    if (state === this._state) return;
    this._state = state;
    if (how.view !== this._view || how.colouring !== this._colouring) this._restyle(how);
    if (this._isGiven === null || (recording.done !== null) !== this._givenAtEnd) {
      const { mask, model } = vocabulary;
      const prefix = model.frame?.prefix?.length ?? 0;
      this._isGiven = givenCells(recording, { mask, prefix, parameters: run.settings.parameters });
      this._givenAtEnd = recording.done !== null;
      this._ends = recording.done === null ? [] : this._endsOf(recording);
    }
    if (recording.firstOpen !== this._firstOpen) {
      this._firstOpen = recording.firstOpen;
      for (const { cells } of this._samples) this._mark(cells);
    }
    this._frame = recording.frameAt(index, this._frame);
    const { _isGiven: isGiven, _ends: ends, _colouring: colouring } = this;
    lookAt(this._frame, this._looks, { recording, mask: vocabulary.mask, isGiven, ends, colouring });
    for (const sample of this._samples) if (sample.seen) this._paint(sample);
  }

  /** Where the text of each sample ends. */
  _endsOf({ done, head, numSamples, length }) {
    return done.samples.slice(0, numSamples).map((sample, index) => {
      const tokens = head.tokens.subarray(index * length, (index + 1) * length);
      return endOf(sample, tokens, (id) => this._vocabulary.text(id));
    });
  }

  /** Text of a sample as it is drawn, its masks as ░. */
  textOf(sample) {
    const { vocabulary, recording } = this._run;
    const [from, to] = [sample * recording.length, (sample + 1) * recording.length];
    const parts = Array.from(this._frame.tokens.subarray(from, to), (id) => (id === vocabulary.mask ? " ░" : vocabulary.text(id)));
    return parts.join("").trim();
  }

  /** The frame that is drawn; null before there is one. */
  get frame() {
    return this._frame;
  }

  /** Say this of a cell to whom points at it. @param {{sample: number, position: number}} cell */
  tell({ sample, position }, text) {
    const cell = this._samples[sample]?.cells[position];
    if (cell !== undefined) cell.title = text;
  }

  /** Put what is drawn into words, for who cannot see it. Not for every frame. */
  describe() {
    if (this._frame === null || this._run === null) return;
    for (const { alternative, sample } of this._samples) {
      const text = this.textOf(sample).slice(0, LONGEST_READ);
      if (alternative.textContent !== text) alternative.textContent = text;
    }
  }

  /** Forget all. */
  clear() {
    this._watcher.disconnect();
    this.element.replaceChildren();
    [this._samples, this._run, this._frame, this._state] = [[], null, null, null];
  }

  _build(run) {
    this.clear();
    const { recording, vocabulary } = run;
    [this._run, this._vocabulary, this._isGiven] = [run, vocabulary, null];
    this._looks = new Int32Array(recording.numCells);
    this._drawnLooks = new Int32Array(recording.numCells).fill(-1);
    this._drawnTokens = new Int32Array(recording.numCells).fill(-1);
    this._view = this._colouring = null;
    this._firstOpen = null;
    this._samples = Array.from({ length: recording.numSamples }, (_, sample) => this._sample(recording, sample));
    this.element.replaceChildren(...this._samples.map(({ element: made }) => made));
    for (const { element: made } of this._samples) this._watcher.observe(made);
  }

  _sample(recording, sample) {
    const grid = element("div", { class: "grid", "aria-hidden": "true", "data-sample": sample });
    const alternative = element("p", { class: "visually-hidden" });
    const name = recording.numSamples > 1 ? `Sample ${sample + 1}` : "Sample";
    const caption = element("figcaption", recording.numSamples > 1 ? {} : { class: "visually-hidden" }, name);
    const made = element("figure", { class: "sample" }, caption, grid, alternative);
    return { element: made, grid, cells: [], alternative, sample, seen: sample < 2 };
  }

  _restyle({ view, colouring }) {
    if (view !== this._view) this._drawnTokens.fill(-1);
    this._drawnLooks.fill(-1);
    [this._view, this._colouring] = [view, colouring];
    this.element.dataset.view = view;
    this.element.dataset.colouring = colouring;
  }

  /** The elements of a sample, when it comes into sight. */
  _fill({ grid, cells }) {
    const { length } = this._run.recording;
    const made = document.createDocumentFragment();
    for (let position = 0; position < length; position += 1) {
      cells.push(made.appendChild(element("span", { "data-position": position })));
    }
    grid.append(made);
    this._mark(cells);
  }

  /** Mark the ends of blocks. */
  _mark(cells) {
    const ends = new Set(this._run.recording.blockEnds);
    cells.forEach((cell, position) => cell.toggleAttribute("data-block", ends.has(position)));
  }

  _see(target, seen) {
    const sample = this._samples.find(({ element: made }) => made === target);
    if (sample === undefined) return;
    sample.seen = seen;
    if (seen && this._frame !== null) this._paint(sample);
  }

  _paint(shown) {
    const { cells, sample } = shown;
    if (cells.length === 0) this._fill(shown);
    const { _looks: looks, _drawnLooks: drawn, _drawnTokens: drawnTokens, _vocabulary: vocabulary } = this;
    const { tokens } = this._frame;
    const newest = this._run.recording.head.tokens;
    const inText = this._view === "text";
    const first = sample * cells.length;
    for (let position = 0; position < cells.length; position += 1) {
      const at = first + position;
      const isMask = (looks[at] & 3) === MASK;
      // In a text a mask is as wide as what is known to come, so that the lines stay where they are.
      const token = isMask && inText ? -2 - newest[at] : tokens[at];
      if (token !== drawnTokens[at]) {
        drawnTokens[at] = token;
        label(cells[position], vocabulary, tokens[at], isMask, inText ? newest[at] : null);
      }
      if (looks[at] !== drawn[at]) {
        drawn[at] = looks[at];
        cells[position].className = classesOf(looks[at], this._colouring);
      }
    }
  }
}

/** What a cell shows; `ghost` is the token whose width a mask takes in a text. */
function label(cell, vocabulary, id, isMask, ghost) {
  const inText = ghost !== null;
  if (!isMask) {
    const text = inText ? vocabulary.text(id) : vocabulary.label(id);
    cell.textContent = text;
    delete cell.dataset.ghost;
    cell.toggleAttribute("data-long", !inText && text.length > 7);
    return;
  }
  cell.textContent = "";
  cell.removeAttribute("data-long");
  if (inText) cell.dataset.ghost = ghost === vocabulary.mask ? " ····" : vocabulary.text(ghost);
}
