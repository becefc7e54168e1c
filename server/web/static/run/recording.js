/** A run as it was told: its start, and every state as what it changed, with keyframes to seek by. */

/**
 * The state of a run after so many of its states.
 * @typedef {object} Frame
 * @property {number} index states told so far; 0 is the beginning
 * @property {Int32Array} tokens token id of each cell, sample after sample
 * @property {Int32Array} setBy which state set a cell last, counted from 1; 0 for none
 * @property {Uint8Array} times how often a cell was set to another token, 255 at most; what is masked again is not set
 * @property {number} rewrites how often a cell was set to another token that had been set before
 * @property {?Float64Array} logprobs of each cell's token where states carry them, NaN where not
 */

export class Recording {
  /**
   * @param {object} start data of the start event
   * @param {{mask?: ?number, blockSize?: ?number}} known the mask of its model, and the tokens of its blocks
   */
  constructor(start, { mask = null, blockSize = null } = {}) {
    this.start = start;
    this.mask = mask;
    this.blockSize = blockSize;
    /** Where the first block begins: at what is not given. With a noisy beginning only the first block's end tells. */
    this.firstOpen = start.process === "uniform" ? 0 : Math.max(start.tokens[0]?.indexOf(mask) ?? 0, 0);
    this.numSamples = start.tokens.length;
    this.length = start.tokens[0]?.length ?? 0;
    /** @type {{event: string, data: any}[]} */
    this.events = [{ event: "start", data: start }];
    this.states = [];
    this.blocks = [];
    this.done = null;
    this._head = {
      index: 0,
      tokens: Int32Array.from(start.tokens.flat()),
      setBy: new Int32Array(this.numCells),
      times: new Uint8Array(this.numCells),
      rewrites: 0,
      logprobs: null,
    };
    /** Of the last tokens, as `done` tells them. @type {?Float64Array} */
    this._lastLogprobs = null;
    /** Whether states tell of some tokens only how probable they were; whether some were taken back. */
    this.hasUntold = this.hasTakenBack = false;
    this._keyframes = [copyOf(this._head)];
    this._numBlocks = this.blockEnds.length + 1;
    this._sinceKeyframe = 0;
  }

  get numCells() {
    return this.numSamples * this.length;
  }

  get numStates() {
    return this.states.length;
  }

  /** The newest state, which goes on changing. @returns {Frame} */
  get head() {
    return this._head;
  }

  /** Whether it was told how probable tokens were when they were set. */
  get hasConfidence() {
    return this._head.logprobs !== null || this._lastLogprobs !== null;
  }

  /** One more event, which was checked. Throws an Error for what lies outside this run. */
  push({ event, data }) {
    if (event === "state") this._pushState(data);
    else if (event === "block") this._pushBlock(data);
    else if (event === "done") this._pushDone(data);
    if (event === "block" || event === "done") this.events.push({ event, data });
  }

  /** How far the run is after state `index`, from 0 to 1. */
  progress(index) {
    if (index === 0) return 0;
    if (this.done !== null && index >= this.numStates) return 1;
    const { step, t } = this.states[index - 1];
    const steps = this.numSteps;
    return Math.min(steps === null ? 1 - t : step / steps, 1);
  }

  /** Steps of the whole run; null where there is no grid of them. */
  get numSteps() {
    const { num_inference_steps: steps } = this.start;
    return steps === null ? null : Math.max(steps * this._numBlocks, this.states.at(-1)?.step ?? 0);
  }

  /** The state of the run at `index`, copied into `into` where that is a frame of this run. @returns {Frame} */
  frameAt(index, into = null) {
    const here = this._head;
    if (index >= here.index) return copyOf(here, into);
    const known = into !== null && into.index <= index && (into.logprobs === null) === (here.logprobs === null);
    const keyframe = this._keyframeBefore(index);
    const frame = known && keyframe.index <= into.index ? into : copyOf(keyframe, into);
    for (let next = frame.index; next < index; next += 1) apply(frame, this.states[next], this.mask);
    return frame;
  }

  /** The step in which the state `setBy` set a cell, as `done` tells it where nothing set it later; 0 for none. */
  stepOf(cell, setBy) {
    if (setBy === 0) return 0;
    if (this.done === null || this._head.setBy[cell] !== setBy) return this.states[setBy - 1].step;
    return this.done.step_map[Math.floor(cell / this.length)][cell % this.length];
  }

  /** How probable a cell's token was, to the network alone, when it was set: its logarithm, NaN where it was not told. @param {Frame} frame */
  logprobOf(cell, { setBy, logprobs }) {
    if (this._lastLogprobs !== null && this._head.setBy[cell] === setBy[cell]) return this._lastLogprobs[cell];
    return logprobs === null ? NaN : logprobs[cell];
  }

  /**
   * What a cell was set to by the first `index` states, one after the other; the mask where it was taken back.
   * @returns {{token: number, step: number, logprob: number}[]}
   */
  historyOf(cell, index) {
    const found = [];
    for (let setBy = 1; setBy <= index; setBy += 1) {
      const { cells, tokens, logprobs } = this.states[setBy - 1];
      const at = cells.lastIndexOf(cell);
      if (at >= 0) found.push({ token: tokens[at], step: this.stepOf(cell, setBy), logprob: logprobs?.[at] ?? NaN });
    }
    if (found.length > 0 && index === this.numStates && this._lastLogprobs !== null) found.at(-1).logprob = this._lastLogprobs[cell];
    return found;
  }

  /** Positions that are the last of a block, but for the last block. */
  get blockEnds() {
    const ends = [];
    if (this.blockSize === null) return ends;
    for (let end = this.firstOpen + this.blockSize; end < this.length; end += this.blockSize) ends.push(end - 1);
    return ends;
  }

  _pushBlock(data) {
    if (this.blocks.length === 0 && data.block === 0) {
      this.firstOpen = data.start;
      this._numBlocks = this.blockEnds.length + 1;
    }
    this.blocks.push({ ...data, after: this.numStates });
  }

  _pushState(data) {
    const { changes, keyframe = null, logprobs = null, keyframe_logprobs: others = null, ...rest } = data;
    const cells = keyframe === null ? this._changed(changes) : this._difference(keyframe, changes);
    if (logprobs !== null) {
      const told = new Map(changes.map(([sample, position], index) => [sample * this.length + position, logprobs[index]]));
      const other = (cell) => others?.[Math.floor(cell / this.length)]?.[cell % this.length];
      cells.logprobs = Float64Array.from(cells.cells, (cell) => told.get(cell) ?? other(cell) ?? NaN);
      this.hasUntold ||= cells.logprobs.some((value, index) => Number.isNaN(value) && cells.tokens[index] !== this.mask);
      for (const frame of [this._head, ...this._keyframes]) frame.logprobs ??= new Float64Array(this.numCells).fill(NaN);
    }
    this.hasTakenBack ||= cells.tokens.some((token, index) => token === this.mask && this._head.times[cells.cells[index]] > 0);
    const state = { step: rest.step, t: rest.t, nfe: rest.nfe, ...cells };
    this.states.push(state);
    apply(this._head, state, this.mask);
    this._sinceKeyframe += state.cells.length + 1;
    if (this._sinceKeyframe > Math.max(this.numCells, 256)) {
      this._keyframes.push(copyOf(this._head));
      this._sinceKeyframe = 0;
    }
  }

  _pushDone(data) {
    this.done = data;
    if (data.logprobs != null) this._lastLogprobs = Float64Array.from(data.logprobs.flat(), (value) => value ?? NaN);
  }

  _changed(changes) {
    const cells = new Int32Array(changes.length);
    const tokens = new Int32Array(changes.length);
    changes.forEach(([sample, position, token], index) => {
      if (!(sample >= 0 && sample < this.numSamples && position >= 0 && position < this.length)) {
        throw new Error(`a change lies outside ${this.numSamples} × ${this.length}: ${sample}, ${position}`);
      }
      cells[index] = sample * this.length + position;
      tokens[index] = token;
    });
    return { cells, tokens };
  }

  /** What a keyframe changes: all that was missed, and what its own changes set to what it was before. */
  _difference(keyframe, changes) {
    const whole = Int32Array.from(keyframe.flat());
    if (whole.length !== this.numCells) throw new Error(`a keyframe has ${whole.length} tokens, not ${this.numCells}`);
    const again = new Set(this._changed(changes).cells);
    const cells = Int32Array.from(whole.keys()).filter((cell) => again.has(cell) || whole[cell] !== this._head.tokens[cell]);
    return { cells, tokens: cells.map((cell) => whole[cell]) };
  }

  _keyframeBefore(index) {
    let [low, high] = [0, this._keyframes.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this._keyframes[middle].index <= index) low = middle;
      else high = middle - 1;
    }
    return this._keyframes[low];
  }

  /** All events, states among them in their place, as a server tells them. */
  *story() {
    const rest = [...this.events.slice(1)];
    yield this.events[0];
    for (const [index, state] of this.states.entries()) {
      yield { event: "state", data: this._told(state) };
      while (rest[0]?.event === "block" && this._blockAfter(rest[0]) === index + 1) yield rest.shift();
    }
    yield* rest;
  }

  _blockAfter({ data }) {
    return this.blocks.find(({ block }) => block === data.block).after;
  }

  _told({ step, t, nfe, cells, tokens, logprobs }) {
    const changes = Array.from(cells, (cell, index) => [Math.floor(cell / this.length), cell % this.length, tokens[index]]);
    const told = { step, t, nfe, changes };
    if (logprobs != null) told.logprobs = Array.from(logprobs, (value) => (Number.isNaN(value) ? null : value));
    return told;
  }
}

/** Set what a state changes. */
function apply(frame, { cells, tokens, logprobs }, mask) {
  frame.index += 1;
  for (let index = 0; index < cells.length; index += 1) {
    const cell = cells[index];
    if (tokens[index] !== mask && tokens[index] !== frame.tokens[cell]) {
      if (frame.times[cell] > 0) frame.rewrites += 1;
      if (frame.times[cell] < 255) frame.times[cell] += 1;
    }
    frame.tokens[cell] = tokens[index];
    frame.setBy[cell] = frame.index;
    if (frame.logprobs !== null) frame.logprobs[cell] = logprobs?.[index] ?? NaN;
  }
}

function copyOf(frame, into = null) {
  if (into === null || (into.logprobs === null) !== (frame.logprobs === null)) {
    const { index, tokens, setBy, times, rewrites, logprobs } = frame;
    const arrays = { tokens: tokens.slice(), setBy: setBy.slice(), times: times.slice(), logprobs: logprobs?.slice() ?? null };
    return { index, rewrites, ...arrays };
  }
  into.index = frame.index;
  into.rewrites = frame.rewrites;
  into.tokens.set(frame.tokens);
  into.setBy.set(frame.setBy);
  into.times.set(frame.times);
  into.logprobs?.set(frame.logprobs);
  return into;
}
