/** Runs as a file and back: all that a replay needs, no server. */

import { Run } from "../run/run.js";
import { Vocabulary } from "../view/vocabulary.js";

const FORMAT = "token-diffusion-run";
const VERSION = 1;
/** Most cells of a run that is read; a server gives at most some ten thousand. */
const MOST_CELLS = 2 ** 20;
const EVENTS = ["start", "state", "block", "done"];

/** @param {Run[]} runs each with a recording @returns {string} JSON */
export function archiveOf(runs) {
  const saved = runs.map(({ settings, recording, vocabulary }) => ({
    settings: { ...settings, parameters: plain(settings.parameters) },
    model: vocabulary.model,
    pieces: vocabulary.only(idsIn(recording)),
    separates: vocabulary.separates,
    events: [...recording.story()].map(({ event, data }) => ({ event, data: plain(data) })),
  }));
  return JSON.stringify({ format: FORMAT, version: VERSION, runs: saved });
}

/** The runs of an archive, ready to be shown. Throws an Error that says in a line why it is none. */
export function runsIn(text) {
  let archive;
  try {
    archive = JSON.parse(text);
  } catch (error) {
    throw new Error(`the file is not JSON: ${error.message}`);
  }
  check(archive?.format === FORMAT, `the file is no saved run: its format is not “${FORMAT}”`);
  check(archive.version === VERSION, `the file is of version ${String(archive.version).slice(0, 40)}; this page reads ${VERSION}`);
  check(Array.isArray(archive.runs) && [1, 2].includes(archive.runs.length), "the file must hold one run or two");
  check(archive.runs.every(isObject), "each run must be an object");
  return archive.runs.map(runOf);
}

function runOf({ settings, model, pieces, separates, events }) {
  check(typeof settings?.endpoint === "string" && isObject(settings.parameters), "a run must have settings");
  check(isCount(settings.blockSize ?? 1), "the blockSize of a run must be a whole number above 0");
  check(Number.isInteger(model?.mask_token_id) && typeof model.mask_token === "string", "a run must have a model");
  check(pieces === null || isObject(pieces), "the pieces of a run must be an object");
  check(Object.values(pieces ?? {}).every((piece) => typeof piece === "string"), "each piece of a run must be a string");
  const known = (each) => isObject(each) && EVENTS.includes(each.event) && isObject(each.data);
  check(Array.isArray(events) && events.length > 0 && events.every(known), "a run must have events");
  checkStart(events[0]);
  const shape = events[0].data.tokens;
  for (const { event, data } of events) {
    if (event === "state") checkState(data);
    if (event === "done") checkDone(data, shape);
  }
  const run = new Run(settings, [{ ...model, name: events[0].data.model }]);
  run.replay(events);
  run.vocabulary = new Vocabulary(model, pieces === null ? null : { pieces, separates: separates === true });
  return run;
}

function checkStart(start) {
  const tokens = start?.data?.tokens;
  check(isCount(start?.data?.num_inference_steps ?? 1), "num_inference_steps must be a whole number above 0");
  check(start?.event === "start" && isGrid(tokens) && tokens.length > 0, "a run must begin with start");
  const { model, process, seed } = start.data;
  check([model, process].every((name) => typeof name === "string"), "start must have a model and a process");
  check(/^\d+$/.test(String(seed)), "the seed of a run must be a whole number");
  check(tokens.every((row) => row.length === tokens[0].length), "all samples of a run must be of one length");
  check(tokens.length * tokens[0].length <= MOST_CELLS, `a run must have at most ${MOST_CELLS} tokens`);
}

function checkState({ step, t, nfe, changes, keyframe, logprobs }) {
  check([step, t, nfe].every(Number.isFinite) && isGrid(changes), "a state must have step, t, nfe and changes");
  check(changes.every((change) => change.length === 3), "a change must be [sample, position, token]");
  check(isGrid(keyframe ?? []), "the keyframe of a state must be rows of tokens");
  check(logprobs == null || Array.isArray(logprobs), "the logprobs of a state must be a list");
}

function checkDone({ samples, step_map: steps, usage, timings }, shape) {
  const fitting = isGrid(steps) && steps.length === shape.length && steps.every((row) => row.length === shape[0].length);
  check(fitting, "the step_map of a run must have the shape of its tokens");
  check(Array.isArray(samples) && samples.every(isObject), "done must have samples");
  const costs = [usage?.prompt_tokens, usage?.completion_tokens, usage?.forwards_skipped, timings?.total_ms];
  check(costs.every(Number.isFinite), "done must have usage and timings");
}

function idsIn(recording) {
  const ids = new Set(recording.start.tokens.flat());
  for (const { tokens } of recording.states) for (const id of tokens) ids.add(id);
  return ids;
}

/** The same, its BigInts as text: JSON.parse would round them. */
function plain(object) {
  const entries = Object.entries(object);
  return Object.fromEntries(entries.map(([name, value]) => [name, typeof value === "bigint" ? String(value) : value]));
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function isCount(value) {
  return Number.isSafeInteger(value) && value > 0;
}

function isGrid(value) {
  return Array.isArray(value) && value.every((row) => Array.isArray(row) && row.every(Number.isInteger));
}

function check(holds, message) {
  if (!holds) throw new Error(message);
}
