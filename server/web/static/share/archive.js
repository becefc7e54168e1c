/** Runs as a file and back: all that a replay needs, no server. */

import { Run } from "../run/run.js";
import { check, isCount, isObject } from "../run/story.js";
import { Vocabulary } from "../view/vocabulary.js";

const FORMAT = "token-diffusion-run";
const VERSION = 1;

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
  check(Array.isArray(events) && events.every(isObject), "a run must have events");
  const run = new Run(settings, [{ ...model, name: events[0]?.data?.model }]);
  run.replay(events);
  run.vocabulary = new Vocabulary(model, pieces === null ? null : { pieces, separates: separates === true });
  return run;
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
