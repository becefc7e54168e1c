/** How each cell of a frame looks, as one number: equal numbers need no drawing. */

/** Kinds of cells. */
export const MASK = 0;
const NOISE = 1;
const FIXED = 2;
export const SET = 3;

export const AGES = 5;
export const HEATS = 16;
/** Added to the look of a cell that the text of its sample does not reach. */
const AFTER = 128;
/** Added to the look of a cell of which it was not told how probable its token was. */
const UNTOLD = 256;

/** @typedef {"age" | "step" | "confidence"} Colouring */

/**
 * Which cells are given: fixed by the request. Where the process begins with masks, these are all that begin as something
 * else. Where it begins with noise, only the end tells: the tokens of the prompt, or what no step of a template has set.
 * @param {import("../run/recording.js").Recording} recording
 * @param {{mask: number, prefix: number, parameters: Record<string, any>}} how prefix: tokens of the frame before the text
 * @returns {(cell: number) => boolean}
 */
export function givenCells(recording, { mask, prefix, parameters }) {
  const { start, done, length } = recording;
  const first = start.tokens.flat();
  if (start.process !== "uniform") return (cell) => first[cell] !== mask;
  if (done === null) return () => false;
  const steps = done.step_map.flat();
  const end = parameters.template == null ? prefix + done.usage.prompt_tokens : length;
  return (cell) => cell % length < end && steps[cell] === 0;
}

/**
 * Looks of all cells into `looks`: kind + 4 × rewritten, or of a mask: taken back + 8 × shade, of the ages or of the heats,
 * + 128 behind the text's end, + 256 without a probability.
 * @param {import("../run/recording.js").Frame} frame
 * @param {{recording: import("../run/recording.js").Recording, mask: number, isGiven: (cell: number) => boolean,
 *   ends: number[], colouring: Colouring}} how ends: of each sample's text, once it is known
 */
export function lookAt(frame, looks, { recording, mask, isGiven, ends, colouring }) {
  const { index, tokens, setBy, times } = frame;
  const ended = recording.done !== null && index >= recording.numStates;
  const unit = Math.max(1, Math.round(Math.max(recording.numStates, recording.numSteps ?? 0) / 40));
  const begins = recording.start.process === "uniform" ? 1 : 0;
  const steps = Math.max(recording.numSteps ?? recording.states.at(-1)?.step ?? 1, 1);
  for (let cell = 0; cell < tokens.length; cell += 1) {
    const by = setBy[cell];
    let kind = SET;
    let shade = 0;
    if (tokens[cell] === mask) kind = MASK;
    else if (by === 0) kind = isGiven(cell) ? FIXED : ended ? SET : begins ? NOISE : FIXED;
    if (kind === SET) {
      if (colouring === "age") shade = ended || by === 0 ? AGES - 1 : ageOf(index - by, unit);
      else if (colouring === "step") shade = heatOf(recording.stepOf(cell, by) / steps);
      else shade = shadeOf(recording.logprobOf(cell, frame));
    }
    const again = times[cell] > (kind === MASK ? 0 : 1);
    looks[cell] = kind + (again ? 4 : 0) + 8 * shade;
  }
  if (!ended) return;
  ends.forEach((end, sample) => {
    for (let position = end; position < recording.length; position += 1) looks[sample * recording.length + position] += AFTER;
  });
}

/** The classes of a cell of this look. @param {Colouring} colouring */
export function classesOf(look, colouring) {
  const kind = look & 3;
  const shade = (look >> 3) & 15;
  const classes = ["cell", ["mask", "noise", "fixed", "set"][kind]];
  if (look & UNTOLD) classes.push("untold");
  else if (kind === SET) classes.push(colouring === "age" ? `age-${shade}` : `heat-${shade}`);
  if (look & 4) classes.push("again");
  if (look & AFTER) classes.push("after");
  return classes.join(" ");
}

function shadeOf(logprob) {
  return Number.isNaN(logprob) ? UNTOLD / 8 : heatOf(sureness(logprob));
}

function ageOf(states, unit) {
  const units = states / unit;
  if (units < 1) return 0;
  if (units < 2) return 1;
  if (units < 4) return 2;
  return units < 8 ? 3 : AGES - 1;
}

/** How sure a model was of a token, from 0 to 1: the root of its probability, so that small ones can be told apart, too. */
export function sureness(logprob) {
  return Math.exp(logprob / 2);
}

function heatOf(share) {
  return Math.min(Math.max(Math.floor(share * HEATS), 0), HEATS - 1);
}
