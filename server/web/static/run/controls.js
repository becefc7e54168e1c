/** The playback's controls: play and pause, place, speed, loop, live; and its keys. */

import { byId } from "../view/element.js";

const ICONS = { play: "M6 4l10 6-10 6z", pause: "M5 4h4v12H5zM11 4h4v12h-4z" };
/** Milliseconds between two announcements while runs go on. */
const ANNOUNCE_MS = 4000;

export class Controls {
  /** @param {import("./player.js").Player} player */
  constructor(player) {
    this.player = player;
    this.position = byId("position");
    this.play = byId("play");
    this.live = byId("live");
    this.place = byId("place");
    this._announced = { at: 0, text: "" };
    this.play.addEventListener("click", () => this._toggle());
    this.position.addEventListener("input", () => {
      player.playing = false;
      player.seek(Number(this.position.value));
    });
    byId("speed").addEventListener("change", ({ target }) => (player.speed = Number(target.value)));
    byId("loop").addEventListener("change", ({ target }) => {
      player.loop = target.checked;
      player.wake();
    });
    this.live.addEventListener("click", () => player.follow());
    document.addEventListener("keydown", (event) => this._key(event));
  }

  /** New runs are shown. @param {import("./run.js").Run[]} runs @param {{silent?: boolean}} how silent: nothing is announced */
  show(runs, { silent = false } = {}) {
    this._silent = silent;
    this._ended = false;
    if (runs.some((run) => !run.isOver)) this._announce("Started.", true);
  }

  /** What the button says changes at once, not with the next frame. */
  _toggle() {
    this.player.toggle();
    this.draw();
  }

  /** Show where the player is. */
  draw() {
    const { player } = this;
    const { tick, lastTick, playing } = player;
    byId("transport").hidden = player.runs.every(({ recording }) => recording === null);
    if (Number(this.position.max) !== lastTick) this.position.max = String(lastTick);
    if (Number(this.position.value) !== tick) this.position.value = String(tick);
    const [name, icon] = playing ? ["Pause", ICONS.pause] : ["Play", ICONS.play];
    if (this.play.getAttribute("aria-label") !== name) {
      this.play.setAttribute("aria-label", name);
      byId("play-icon").setAttribute("d", icon);
    }
    const text = `${tick} / ${lastTick}`;
    if (this.place.textContent !== text) {
      this.place.textContent = text;
      this.position.setAttribute("aria-valuetext", `state ${tick} of ${lastTick}`);
    }
    this.live.hidden = player.isOver || player.isLive;
    this._tell();
  }

  _tell() {
    const { runs } = this.player;
    if (runs.length === 0) return;
    if (!this.player.isOver) {
      const { recording } = runs[0];
      const state = recording?.states.at(-1);
      if (state !== undefined) this._announce(`Step ${state.step}${recording.numSteps === null ? "" : ` of ${recording.numSteps}`}.`);
    } else if (!this._ended) {
      this._ended = true;
      const failed = runs.find(({ status }) => status === "failed");
      const stopped = runs.some(({ status }) => status === "stopped");
      this._announce(failed ? `Failed: ${failed.error.message}` : stopped ? "Stopped." : "Done.", true);
    }
  }

  /** Say it to a screen reader, sparsely. */
  _announce(text, now = false) {
    const time = performance.now();
    if (this._silent || text === this._announced.text || (!now && time - this._announced.at < ANNOUNCE_MS)) return;
    this._announced = { at: time, text };
    byId("announcer").textContent = text;
  }

  _key(event) {
    const { player } = this;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || player.runs.length === 0) return;
    if (document.querySelector("dialog[open]") !== null || isTaken(event.key, event.target)) return;
    const does = {
      " ": () => this._toggle(),
      ArrowLeft: () => player.step(-1),
      ArrowRight: () => player.step(1),
      Home: () => player.step(-Infinity),
      End: () => player.step(Infinity),
    }[event.key];
    if (does === undefined) return;
    event.preventDefault();
    does();
  }
}

/** Whether a key belongs to the element that has it: a button is pressed by space alone; the slider's keys do what ours do. */
function isTaken(key, target) {
  if (target === byId("position")) return false;
  const taking = key === " " ? "input, textarea, select, button, summary, a" : "input, textarea, select";
  return target.closest(taking) !== null;
}
