/** One request from being sent to its end: its recording, how it is, and what there is to say about it. */

import { SampleError } from "../client.js";
import { Recording } from "./recording.js";
import { checkEvent } from "./story.js";

/** @typedef {"new" | "sent" | "waiting" | "running" | "broken" | "done" | "stopped" | "failed"} Status */

export class Run {
  /**
   * @param {import("../form/form.js").Settings} settings
   * @param {{name: string, mask_token_id: number}[]} models
   * @param {(run: Run) => void} onChange called whenever there is something new
   */
  constructor(settings, models, onChange = () => {}) {
    this.settings = settings;
    this.models = models;
    /** @type {Status} */
    this.status = "new";
    /** @type {?Recording} */
    this.recording = null;
    /** @type {?SampleError} why it failed */
    this.error = null;
    /** When the present pause ends, in milliseconds of performance.now(); null without one. */
    this.waitsUntil = null;
    this.vocabulary = null;
    this._onChange = onChange;
    this._leaver = new AbortController();
    this._id = null;
  }

  get isOver() {
    return this.status === "done" || this.status === "stopped" || this.status === "failed";
  }

  /** Send it and follow it to its end. Never rejects: `error` says why it failed. */
  async follow(client) {
    this._client = client;
    this._tell("sent");
    const { endpoint, parameters } = this.settings;
    const options = {
      endpoint,
      signal: this._leaver.signal,
      retries: 3,
      onWait: (wait) => this._wait(wait),
    };
    try {
      for await (const event of client.stream(parameters, options)) this._hear(event);
      this._tell("done");
    } catch (error) {
      this._end(error);
    }
  }

  /** End it: the server is told at once. */
  stop() {
    if (!this.isOver) this._leaver.abort();
  }

  /** The page is left: tell the server with the page's last breath. */
  leave() {
    if (!this.isOver && this._id !== null) this._client.cancel(this._id, { keepalive: true }).catch(() => {});
  }

  /** Replay a story that was saved. Throws an Error for one that is none. */
  replay(events) {
    for (const event of events) this._hear(event);
    if (this.recording === null) throw new Error("the run has no start");
    this.status = this.recording.done === null ? "stopped" : "done";
  }

  _hear({ event, data }) {
    if (this.recording === null && event !== "start") throw new Error(`a run begins with start, not with ${event}`);
    checkEvent({ event, data }, this.recording?.start);
    if (this.recording === null) {
      const mask = this.model(data.model)?.mask_token_id ?? null;
      this.recording = new Recording(data, { mask, blockSize: this.settings.blockSize });
      this._id = data.id;
    } else {
      this.recording.push({ event, data });
    }
    this.waitsUntil = null;
    this.wait = null;
    this._tell("running");
  }

  /** What is known of a model. */
  model(name) {
    return this.models.find((model) => model.name === name);
  }

  _wait(wait) {
    this.waitsUntil = performance.now() + wait.seconds * 1000;
    this.wait = wait;
    this._tell(wait.attached ? "broken" : "waiting");
  }

  _end(error) {
    this.waitsUntil = null;
    if (this._leaver.signal.aborted) return this._tell("stopped");
    const unreadable = () => new SampleError(`the events cannot be read: ${error.message}`, { type: "unreadable", cause: error });
    this.error = error instanceof SampleError ? error : unreadable();
    return this._tell(this.error.type === "cancelled" ? "stopped" : "failed");
  }

  _tell(status) {
    this.status = status;
    this._onChange(this);
  }
}

/** What happened to a run, in a sentence; empty while there is nothing to say. */
export function sentenceOf(run, now = performance.now()) {
  const seconds = run.waitsUntil === null ? 0 : Math.max(Math.ceil((run.waitsUntil - now) / 1000), 0);
  const { error } = run;
  if (run.status === "waiting") return `The server is busy. Sending again in ${seconds} s. (${run.wait.error.message})`;
  if (run.status === "broken") {
    return `The connection broke. Reading on in ${seconds} s, try ${run.wait.attempt}. (${run.wait.error?.message ?? ""})`;
  }
  if (run.status !== "failed") return "";
  if (error.code === 429) return `The server is busy: ${error.message}.${comeAgain(error)}`;
  if (error.code === 404) return "The server does not know this run any more; it may have restarted. The same seed gives the same text.";
  if (error.type === "connection") return `${run.recording === null ? "" : "The connection broke and did not come back: "}${error.message}.`;
  if (error.code === 503 || error.type === "shutdown") return `The server does not take work now: ${error.message}.${comeAgain(error)}`;
  if (error.type === "timeout") return `Too slow: ${error.message}. A larger timeout_s, or fewer steps, may help.`;
  return `${error.message}.`;
}

function comeAgain({ retryAfter }) {
  return retryAfter === null ? "" : ` It asks to come again in ${Math.ceil(retryAfter)} s.`;
}
