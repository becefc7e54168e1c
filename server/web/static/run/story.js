/** What the events of a run must be, whoever tells them: a server, or a file that was saved. */

/** Most cells of a run; a server gives at most some ten thousand, and a page of more is slow. */
const MOST_CELLS = 2 ** 17;

/** Each throws an Error that says in a line what is wrong; `start` is the data of the run's start. */
const CHECKS = { start: checkStart, state: checkState, block: checkBlock, done: checkDone };

/** Throws an Error for what cannot be an event of a run. */
export function checkEvent({ event, data }, start) {
  check(Object.hasOwn(CHECKS, event), `a run has no event “${event}”`);
  check(isObject(data), `the data of ${event} must be an object`);
  CHECKS[event](data, start);
}

function checkStart({ tokens, model, process, seed, num_inference_steps: steps }) {
  check(isCount(steps ?? 1), "num_inference_steps must be a whole number above 0");
  check(isGrid(tokens) && tokens.length > 0, "start must have tokens");
  check(tokens.every((row) => row.length === tokens[0].length), "all samples of a run must be of one length");
  check(tokens.length * tokens[0].length <= MOST_CELLS, `a run must have at most ${MOST_CELLS} tokens`);
  check([model, process].every((name) => typeof name === "string"), "start must have a model and a process");
  check(/^\d+$/.test(String(seed)), "the seed of a run must be a whole number");
}

function checkState({ step, t, nfe, changes, keyframe, logprobs, keyframe_logprobs: others }, { tokens }) {
  check([step, t, nfe].every(Number.isFinite) && isGrid(changes), "a state must have step, t, nfe and changes");
  check(changes.every((change) => change.length === 3), "a change must be [sample, position, token]");
  check(isGrid(keyframe ?? []), "the keyframe of a state must be rows of tokens");
  check(logprobs == null || isLogprobs(logprobs, changes.length), "the logprobs of a state must be a number or null for each change");
  check(others == null || areLogprobs(others, tokens), "the keyframe_logprobs of a state must have the shape of its tokens");
}

function checkBlock({ block, start, end }) {
  check([block, start, end].every(Number.isInteger), "a block must have its number, start and end");
}

function checkDone({ samples, step_map: steps, usage, timings, logprobs }, { tokens }) {
  const fitting = isGrid(steps) && steps.length === tokens.length && steps.every((row) => row.length === tokens[0].length);
  check(fitting, "the step_map of a run must have the shape of its tokens");
  check(Array.isArray(samples) && samples.every(isObject), "done must have samples");
  check(logprobs == null || areLogprobs(logprobs, tokens), "the logprobs of done must have the shape of its tokens");
  const costs = [usage?.prompt_tokens, usage?.completion_tokens, usage?.forwards_skipped, timings?.total_ms];
  check(costs.every(Number.isFinite), "done must have usage and timings");
}

export function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

export function isCount(value) {
  return Number.isSafeInteger(value) && value > 0;
}

export function check(holds, message) {
  if (!holds) throw new Error(message);
}

/** So many numbers, or null where there is none. */
function isLogprobs(value, length) {
  return Array.isArray(value) && value.length === length && value.every((each) => each === null || Number.isFinite(each));
}

function areLogprobs(rows, tokens) {
  return Array.isArray(rows) && rows.length === tokens.length && rows.every((row) => isLogprobs(row, tokens[0].length));
}

function isGrid(value) {
  return Array.isArray(value) && value.every((row) => Array.isArray(row) && row.every(Number.isInteger));
}
