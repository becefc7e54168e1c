/** How the server is, in a line: asked now and then, while somebody looks. */

import { ConnectionError } from "../client.js";
import { element, visible } from "../view/element.js";

const EVERY_MS = 3000;
/** While the server is not ready it is asked more often, so that the page begins as soon as it can. */
const UNREADY_MS = 1000;
const RATE = "How many tokens the network evaluates in a second; a sample's tokens are, at each of its network calls.";

export class Strip {
  /**
   * @param {HTMLElement} place
   * @param {import("../client.js").Client} client
   * @param {{onRefused: (error: Error) => void, onReturn: () => void}} does a key is asked for; the server has been away
   */
  constructor(place, client, { onRefused, onReturn }) {
    this.client = client;
    this._onRefused = onRefused;
    this._onReturn = onReturn;
    this._wasAway = false;
    this._timer = null;
    this._waiters = [];
    this.light = element("span", { class: "light", "aria-hidden": "true" });
    this.word = element("span", { class: "word" }, "connecting");
    this.load = element("span", { class: "load", title: RATE });
    place.append(this.light, this.word, this.load);
    document.addEventListener("visibilitychange", () => this._schedule(0));
    this._schedule(0);
  }

  /** Resolves once the server takes work. */
  ready() {
    return new Promise((resolve) => {
      this._waiters.push(resolve);
      this._schedule(0);
    });
  }

  /** Ask at once: something has changed. After a key was asked for, nothing else asks again. */
  refresh() {
    this._schedule(0);
  }

  _schedule(milliseconds) {
    clearTimeout(this._timer);
    if (document.visibilityState === "visible") this._timer = setTimeout(() => this._ask(), milliseconds);
  }

  async _ask() {
    let next = EVERY_MS;
    try {
      await this.client.ready();
      const waiters = this._waiters.splice(0);
      if (this._wasAway && waiters.length === 0) this._onReturn();
      this._wasAway = false;
      for (const resolve of waiters) resolve();
      const { load } = await this.client.info();
      this._show("ready", "ready", wordsOf(load));
    } catch (error) {
      if (error.code === 401) {
        this._show("ready", "asks for a key", "");
        this._onRefused(error);
        return;
      } else {
        next = UNREADY_MS;
        this._wasAway = true;
        const gone = error instanceof ConnectionError;
        const word = gone ? "unreachable" : /loading/.test(error.message) ? "loading" : /stopping/.test(error.message) ? "stopping" : "not ready";
        this._show(gone ? "gone" : "unready", word, gone || word !== "not ready" ? "" : visible(error.message));
      }
    }
    this._schedule(next);
  }

  _show(state, word, load) {
    this.light.dataset.state = state;
    if (this.word.textContent !== word) this.word.textContent = word;
    if (this.load.textContent !== load) this.load.textContent = load;
  }
}

function wordsOf({ running, waiting, work_per_s: rate }) {
  return `${running} running · ${waiting} waiting · evaluates ${rounded(rate).toLocaleString("en")} tokens/s`;
}

/** Two digits that count: a rate that is measured anew each second says no more. */
function rounded(rate) {
  return Number(rate.toPrecision(2));
}
