/** A run as an animation that needs nothing but itself: SVG whose text appears as it did, and begins anew at its end. */

import { sureness } from "../view/look.js";

const FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const [COLUMN, LINE, SIZE, MARGIN] = [8.4, 24, 14, 20];
const STEP_MS = 110;
const [SHORTEST_MS, LONGEST_MS, REST_MS] = [3000, 12_000, 2500];
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1faff}]/u;

const STYLE = `
svg{color-scheme:light dark}
text{font:${SIZE}px ${FONT};fill:#1c1b22;white-space:pre}
.page{fill:#fff}.mask{fill:#e4e3ea}.fresh{fill:#b5abf2}.given{fill:#5443d6}.bar{fill:#c8c6d4}.again{fill:#5d596c}.sure{fill:#7fd6a4}
@media (prefers-color-scheme:dark){text{fill:#ecebf2}.page{fill:#16151b}.mask{fill:#33313c}.fresh{fill:#554b9c}.given{fill:#a99dff}.bar{fill:#4b4958}.again{fill:#aaa6b8}.sure{fill:#2b6b49}}`;

/**
 * @param {import("../run/run.js").Run} run one that has been told to its end, or as far as it came
 * @param {{sample?: number, columns?: number, colouring?: import("../view/look.js").Colouring}} options columns: characters of a
 *   line; colouring: by confidence words keep a ground, the stronger the surer the model was, in place of one that fades
 * @returns {string} the file
 */
export function svgOf(run, { sample = 0, columns = 72, colouring = "age" } = {}) {
  const { recording, vocabulary } = run;
  const lives = livesOf(recording, sample);
  const places = layOut(lives, vocabulary, columns);
  const lines = places.reduce((most, { line }) => Math.max(most, line), 0) + 1;
  const widest = places.reduce((most, { column, width: wide }) => Math.max(most, column + wide), 24);
  const width = Math.ceil(widest * COLUMN + 2 * MARGIN);
  const height = Math.ceil(lines * LINE + 2 * MARGIN);
  const playing = Math.min(Math.max(recording.numStates * STEP_MS, SHORTEST_MS), LONGEST_MS);
  const clock = { playing, total: playing + REST_MS, recording };
  const isConfident = colouring === "confidence" && recording.hasConfidence;
  const title = `Text appears out of noise: ${recording.start.model}, ${recording.length} tokens, seed ${recording.start.seed}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(title)}</title><style>${STYLE}</style>`,
    `<rect class="page" width="${width}" height="${height}" rx="12"/>`,
    ...drawn(lives, places, vocabulary, clock, isConfident),
    bar(width, height, clock),
    "</svg>\n",
  ].join("\n");
}

/**
 * What each position held, one life a token: from one state up to another, or to the end.
 * @returns {{token: number, from: number, until: ?number, again: boolean, logprob: number}[][]} again: it was set before
 */
function livesOf(recording, sample) {
  const lives = recording.start.tokens[sample].map((token) => [{ token, from: 0, until: null, again: false, logprob: NaN }]);
  const first = sample * recording.length;
  recording.states.forEach(({ cells, tokens, logprobs }, index) => {
    cells.forEach((cell, at) => {
      const life = lives[cell - first];
      if (life === undefined || cell < first) return;
      const last = life.at(-1);
      if (last.token === tokens[at]) return;
      last.until = index + 1;
      const again = life.some(({ token, from }) => from > 0 && token !== recording.mask);
      life.push({ token: tokens[at], from: index + 1, until: null, again, logprob: logprobs?.[at] ?? NaN });
    });
  });
  lives.forEach((life, position) => {
    if (life.length > 1) life.at(-1).logprob = recording.logprobOf(first + position, recording.head);
  });
  return lives;
}

/** Where each position is: as wide as its widest token but a mask, in lines broken between words. */
function layOut(lives, vocabulary, columns) {
  let [line, column] = [0, 0];
  return lives.map((life) => {
    const last = life.at(-1).token;
    const texts = life.filter(({ token }) => token !== vocabulary.mask).map(({ token }) => vocabulary.text(token));
    const breaks = last === vocabulary.mask ? 0 : (vocabulary.text(last).match(/\n/g) ?? []).length;
    const size = Math.max(1, ...texts.map((text) => widthOf(text.replaceAll("\n", ""))));
    const wide = texts.length === 0 ? 4 : size;
    if (column > 0 && column + wide > columns) [line, column] = [line + 1, 0];
    const place = { line, column, width: wide };
    if (breaks > 0) [line, column] = [line + breaks, 0];
    else column += wide;
    return place;
  });
}

/** All lives, those that begin and end together in one group, which has the animation. */
function drawn(lives, places, vocabulary, clock, isConfident) {
  const groups = new Map();
  const put = (key, from, until, shape) => {
    if (!groups.has(key)) groups.set(key, { from, until, shapes: [] });
    groups.get(key).shapes.push(shape);
  };
  lives.forEach((life, position) => {
    const place = places[position];
    for (const { token, from, until, again, logprob } of life) {
      if (token === vocabulary.mask) {
        put(`0 ${from} ${until}`, from, until, box("mask", place, 3));
        continue;
      }
      if (isConfident && !Number.isNaN(logprob)) put(`0 ${from} ${until}`, from, until, box("sure", place, 1, sureness(logprob)));
      else if (from > 0) put(`1 ${from}`, from, null, box("fresh", place, 1));
      if (again) put(`2 ${from} ${until}`, from, until, underline(place));
      const text = vocabulary.text(token).replaceAll("\n", "");
      if (text.trim() !== "") put(`2 ${from} ${until}`, from, until, word(text, place, from === 0 && until === null));
    }
  });
  return [...groups].sort(([a], [b]) => (a[0] < b[0] ? -1 : Number(a[0] > b[0]))).map(([key, group]) => animated(key[0] === "1", group, clock));
}

/** A group that is there from one state up to another; a fresh one fades. Where nothing animates, the end is shown. */
function animated(fades, { from, until, shapes }, clock) {
  const [begin, end] = [timeOf(from, clock), until === null ? 1 : timeOf(until, clock)];
  const atEnd = until === null && !fades ? "" : ' opacity="0"';
  if (fades) {
    const gone = Math.min(begin + 900 / clock.total, 0.999);
    return `<g${atEnd}>${animate("0;0;.9;0;0", [0, begin, begin, gone, 1], "linear", clock)}${shapes.join("")}</g>`;
  }
  if (from === 0 && until === null) return `<g>${shapes.join("")}</g>`;
  const [values, times] = from === 0 ? ["1;0", [0, end]] : until === null ? ["0;1", [0, begin]] : ["0;1;0", [0, begin, end]];
  return `<g${atEnd}>${animate(values, times, "discrete", clock)}${shapes.join("")}</g>`;
}

function animate(values, times, mode, { total }) {
  const keys = times.map((time) => short(time, 4)).join(";");
  const how = `dur="${short(total / 1000, 2)}s" repeatCount="indefinite"`;
  return `<animate attributeName="opacity" values="${values}" keyTimes="${keys}" calcMode="${mode}" ${how}/>`;
}

/** How far the run is, below. */
function bar(width, height, { playing, total }) {
  const at = short(playing / total, 4);
  const end = width - 2 * MARGIN;
  const how = `values="0;${end};${end}" keyTimes="0;${at};1" dur="${short(total / 1000, 2)}s" repeatCount="indefinite"`;
  return `<rect class="bar" x="${MARGIN}" y="${height - 8}" width="${end}" height="2"><animate attributeName="width" ${how}/></rect>`;
}

function timeOf(state, { playing, total, recording }) {
  return state === 0 ? 0 : (recording.progress(state) * playing) / total;
}

function box(name, { line, column, width }, gap, strength = 1) {
  const [x, y] = [MARGIN + column * COLUMN + gap / 2, MARGIN + line * LINE + 3];
  const opacity = strength === 1 ? "" : ` fill-opacity="${short(strength, 2)}"`;
  return `<rect class="${name}" x="${short(x)}" y="${y}" width="${short(width * COLUMN - gap)}" height="${LINE - 6}" rx="4"${opacity}/>`;
}

/** Below what was set before. */
function underline({ line, column, width }) {
  const [x, y] = [MARGIN + column * COLUMN + 1, MARGIN + line * LINE + LINE - 4];
  return `<rect class="again" x="${short(x)}" y="${y}" width="${short(width * COLUMN - 2)}" height="1.5"/>`;
}

function word(text, { line, column }, isGiven) {
  const spaces = text.length - text.trimStart().length;
  const shown = text.trim();
  const x = MARGIN + (column + spaces) * COLUMN;
  const size = `textLength="${short(widthOf(shown) * COLUMN)}" lengthAdjust="spacingAndGlyphs"`;
  return `<text${isGiven ? ' class="given"' : ""} x="${short(x)}" y="${MARGIN + line * LINE + 17}" ${size}>${escaped(shown)}</text>`;
}

function widthOf(text) {
  return [...text].reduce((sum, character) => sum + (WIDE.test(character) ? 2 : 1), 0);
}

function short(number, digits = 1) {
  return String(Number(number.toFixed(digits)));
}

/** Text in XML, without the characters that XML cannot hold. */
function escaped(text) {
  return text
    .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}
