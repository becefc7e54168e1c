/** Where runs are shown: one lane a run, how they are looked at, and what the colours mean. */

import { byId, element } from "./element.js";
import { Lane } from "./lane.js";
import { HEATS } from "./look.js";

/** Most tokens that are shown as flowing text where nobody has chosen: more take their time to be laid out. */
const FLUENT_TOKENS = 1024;

/** Fields of a request that fix tokens. */
const GIVING = ["prompt", "template", "prompt_ids", "template_ids"];

export class Stage {
  /** @param {() => void} onLook it is looked at otherwise @param {(run: object) => void} onRetry */
  constructor(onLook, onRetry) {
    this.how = { view: "text", colouring: "age" };
    /** Whether the server tells how probable tokens were, if it is asked. */
    this.offersConfidence = false;
    this._chosen = false;
    this._onRetry = onRetry;
    this.lanes = [];
    this.root = byId("lanes");
    for (const name of ["view", "colouring"]) {
      byId(name).addEventListener("change", ({ target }) => {
        this.how = { ...this.how, [name]: target.value };
        this._chosen ||= name === "view";
        onLook();
      });
    }
    this.root.replaceChildren(placeholder());
    this._ticking = setInterval(() => this.lanes.some(({ run }) => run.waitsUntil !== null) && onLook(), 500);
  }

  /** Show these runs. */
  show(runs, titles) {
    while (this.lanes.length < runs.length) this.lanes.push(new Lane({ onRetry: this._onRetry }));
    this.lanes.length = runs.length;
    this.lanes.forEach((lane, index) => {
      if (lane.run !== runs[index]) lane.show(runs[index], titles[index]);
    });
    this.root.replaceChildren(...this.lanes.map((lane) => lane.element));
    this.root.dataset.lanes = String(runs.length);
    this._tell(runs); // at once: until the next frame it would still be said that what was shown before is done
  }

  /** Whether the next run is to tell how probable its tokens were. */
  get wantsConfidence() {
    return this.offersConfidence && this.how.colouring === "confidence";
  }

  /** @param {import("./look.js").Colouring} colouring */
  colourBy(colouring) {
    this.how = { ...this.how, colouring };
    byId("colouring").querySelector(`[value=${colouring}]`).checked = true;
  }

  /** Draw all lanes where the player is. @param {import("../run/player.js").Player} player */
  draw(player) {
    const { runs } = player;
    const confident = runs.some(({ recording }) => recording?.hasConfidence);
    byId("confidence").hidden = !confident && !this.offersConfidence;
    if (byId("confidence").hidden && this.how.colouring === "confidence") this.colourBy("age");
    if (!this._chosen) this._choose(runs);
    const still = !player.playing;
    for (const lane of this.lanes) lane.draw(player.indexOf(lane.run), this.how, still);
    this._explain(runs);
    this._tell(runs);
  }

  _tell(runs) {
    document.documentElement.dataset.state = stateOf(runs);
  }

  /** Text where it is light enough, until somebody chooses. */
  _choose(runs) {
    const tokens = runs.reduce((sum, { recording }) => sum + (recording?.numCells ?? 0), 0);
    const view = tokens > FLUENT_TOKENS ? "cells" : "text";
    if (view === this.how.view) return;
    this.how = { ...this.how, view };
    byId("view").querySelector(`[value=${view}]`).checked = true;
  }

  /** The legend of what can be seen. */
  _explain(runs) {
    const recordings = runs.map(({ recording }) => recording).filter((recording) => recording !== null);
    const processes = new Set(recordings.map(({ start }) => start.process));
    const seen = {
      blank: processes.has("absorbing") || processes.has("hybrid"),
      noise: processes.has("uniform"),
      rewritten: processes.has("uniform") || processes.has("hybrid") || recordings.some(({ head }) => head.rewrites > 0),
      takenBack: recordings.some(({ hasTakenBack }) => hasTakenBack),
      given: runs.some(({ settings }) => GIVING.some((name) => settings.parameters[name] != null)),
      cut: recordings.some(({ done }) => done?.samples.some(({ finish_reason: reason }) => reason === "stop")),
      sure: recordings.some(({ hasConfidence }) => hasConfidence),
      untold: recordings.some(({ hasUntold }) => hasUntold),
    };
    const key = `${this.how.colouring} ${recordings.length} ${Object.values(seen)}`;
    if (key === this._explained) return;
    this._explained = key;
    byId("legend").replaceChildren(...(recordings.length === 0 ? [] : legendOf(this.how.colouring, seen)));
    byId("legend").dataset.colouring = this.how.colouring;
  }
}

/** @param {import("./look.js").Colouring} colouring @param {Record<string, boolean>} seen */
function legendOf(colouring, seen) {
  const items = [];
  if (seen.blank) items.push(chip("mask", "blank"));
  if (seen.noise) items.push(chip("noise", "noise"));
  if (colouring === "age") items.push(chip("set age-0", "just set"), chip("set age-4", "settled"));
  if (colouring === "step") items.push(scale(["first steps", "last steps"]));
  if (colouring === "confidence") {
    items.push(seen.sure ? scale(["unsure", "sure"]) : element("span", {}, "this run was not asked how sure it is: the next one will be"));
    if (seen.sure && seen.untold) items.push(chip("set untold", "not told"));
  }
  if (seen.rewritten) items.push(chip("set again", "rewritten"));
  if (seen.takenBack) items.push(chip("mask again", "taken back"));
  if (seen.given) items.push(chip("fixed", "given"));
  if (seen.cut) items.push(chip("set after", "cut off"));
  return items;
}

/** What there is before the first run: a page of blanks. */
function placeholder() {
  const cells = Array.from({ length: 66 }, () => element("span", { class: "cell mask" }));
  const grid = element("div", { class: "grid", "aria-hidden": "true" }, ...cells);
  const hint = element("p", { class: "hint" }, "Choose an example, or write a beginning and press Run.");
  return element("div", { class: "sample idle", "data-view": "cells" }, grid, hint);
}

function chip(classes, text) {
  return element("span", { class: "chip" }, element("i", { class: `cell ${classes}`, "aria-hidden": "true" }), text);
}

function scale([low, high]) {
  const steps = Array.from({ length: HEATS }, (_, heat) => element("i", { class: `cell set heat-${heat}` }));
  return element("span", { class: "chip" }, low, element("span", { class: "scale", "aria-hidden": "true" }, ...steps), high);
}

function stateOf(runs) {
  if (runs.length === 0) return "idle";
  if (runs.some(({ status }) => status === "failed")) return "error";
  return runs.every(({ isOver }) => isOver) ? "done" : "running";
}
