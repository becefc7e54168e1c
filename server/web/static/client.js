/**
 * Client of a Token Diffusion server, for browsers, Node (18 or later), Deno and Bun. One file, no dependency.
 *
 *     import { Client } from "./client.js";
 *     const client = new Client({ baseUrl: "http://127.0.0.1:8000" });
 *     console.log((await client.sample({ prompt: "Once upon a time", seq_len: 48 })).samples[0].text);
 *     for await (const event of client.stream({ seq_len: 64 })) console.log(event.event, event.data);
 *
 * A stream whose connection breaks is read on where it broke, and a server that is busy is asked again when it said.
 */

/**
 * Before each try to come back, in milliseconds, give or take a half; after an event they begin anew. Together they are
 * about as long as a server keeps a request that nobody reads.
 */
const PAUSES_MS = [100, 500, 1000, 2000, 4000, 8000, 12_000];
/** Silence after which a connection is taken for dead; the server says something every 15 seconds. */
const SILENCE_MS = 45_000;
/** Longest wait before a try to come back, whatever Retry-After says: by then a request is kept no longer. */
const LONGEST_PAUSE_MS = 30_000;
const TRANSIENT = new Set([429, 502, 503, 504]);

/**
 * A refusal or a failure, in the server's words.
 * @property {string} type kind of error, such as "invalid_request" or "overloaded"
 * @property {?string} param the field at fault
 * @property {?number} code the HTTP status
 * @property {?number} retryAfter seconds after which to come again, where the server said so
 */
export class SampleError extends Error {
  constructor(message, { type = "http_error", param = null, code = null, retryAfter = null, cause } = {}) {
    super(message, { cause });
    this.name = "SampleError";
    Object.assign(this, { type, param, code, retryAfter });
  }
}

/** No connection, or a stream that ended without `done` or `error` and cannot be read on. */
export class ConnectionError extends SampleError {
  constructor(message, details = {}) {
    super(message, { ...details, type: "connection" });
    this.name = "ConnectionError";
  }
}

/**
 * @typedef {{event: string, id: string, data: any}} StreamEvent `event` is start, state, block or done.
 * @typedef {{seconds: number, attempt: number, error: ?Error, attached: boolean}} Wait a pause that begins; `attached`
 *   says that a request is running which will be read on, else it will be sent again
 */

export class Client {
  /**
   * @param {{baseUrl?: string | URL, apiKey?: ?string, fetch?: typeof fetch}} options
   *   baseUrl: where the server is, with its path prefix; by default the server that this file was loaded from.
   */
  constructor({ baseUrl = new URL("..", import.meta.url), apiKey = null, fetch } = {}) {
    this.baseUrl = String(baseUrl).replace(/\/*$/, "/");
    this.apiKey = apiKey;
    this._fetch = fetch ?? ((...given) => globalThis.fetch(...given));
  }

  /** The loaded checkpoints, the default one first. */
  async models({ signal } = {}) {
    return (await this.json("models", { signal })).models;
  }

  /** Version, limits and load of the server. */
  info({ signal } = {}) {
    return this.json("info", { signal });
  }

  /** Resolves when the server takes work; rejects with its reason while it does not. */
  ready({ signal } = {}) {
    return this.json("ready", { signal });
  }

  /** The server's OpenAPI document. */
  openapi({ signal } = {}) {
    return this.json("openapi.json", { signal });
  }

  /** What each token id of a model looks like: `pieces[id]`. */
  tokens(model, { signal } = {}) {
    return this.json(`models/${encodeURIComponent(model)}/tokens`, { signal });
  }

  /** Token ids of a text: `{prompt, model}`. */
  tokenize(body, { signal } = {}) {
    return this.json("tokenize", { body, signal });
  }

  /** Text of token ids: `{tokens, model}`. */
  detokenize(body, { signal } = {}) {
    return this.json("detokenize", { body, signal });
  }

  /** Bounds of given texts, ranked: `{texts, prefix, num_times, …}`. */
  score(body, { signal } = {}) {
    return this.json("score", { body, signal });
  }

  /** How far a request is, and its answer once there is one. */
  status(id, { signal } = {}) {
    return this.json(`requests/${encodeURIComponent(id)}`, { signal });
  }

  /** End a request. Resolves to whether there was one; `keepalive` lets it outlive the page that sends it. */
  async cancel(id, { keepalive = false } = {}) {
    const response = await this._send(`requests/${encodeURIComponent(id)}`, { method: "DELETE", keepalive });
    if (response.status === 404) return false;
    await raiseForError(response);
    return true;
  }

  /**
   * Samples, once they are finished: the data of `done`.
   * @param {object} parameters fields of the request, such as `prompt`, or `messages` for a model with a chat template
   * @param {object} options those of `stream`
   */
  async sample(parameters = {}, options = {}) {
    let last = null;
    for await (const event of this.stream(parameters, options)) last = event;
    return last.data;
  }

  /**
   * The events of a request, up to and with `done`. Leaving the loop early, or aborting, ends the request.
   * @param {object} parameters fields of the request; an integer beyond 2**53 is a BigInt. With `on_disconnect: "keep"`
   *   leaving ends nothing; with "cancel" a connection that breaks ends the request.
   * @param {{endpoint?: string, signal?: AbortSignal, retries?: number, onWait?: (wait: Wait) => void}} options
   *   retries: how often a request is sent again that a busy server refused with Retry-After; onWait: told of each pause.
   * @returns {AsyncGenerator<StreamEvent>}
   * @throws {SampleError} for a refusal and for an `error` event
   */
  async *stream(parameters = {}, { endpoint = "/sample", signal, retries = 2, onWait } = {}) {
    const given = parameters.on_disconnect;
    const body = { ...parameters, stream: true, on_disconnect: given ?? "keep" };
    const path = endpoint.replace(/^\/+/, "");
    let response;
    for (let attempt = 1; ; attempt += 1) {
      response = await this._send(path, { body, signal });
      const error = await errorOf(response);
      if (error === null) break;
      if (attempt > retries || error.retryAfter === null || !TRANSIENT.has(error.code)) throw error;
      await pause(error.retryAfter * 1000, signal, () =>
        onWait?.({ seconds: error.retryAfter, attempt, error, attached: false }),
      );
    }
    const reading = { id: response.headers.get("X-Sample-Id"), returns: given !== "cancel", ends: given === undefined };
    yield* this._follow(response, reading, { signal, onWait });
  }

  /**
   * The events of a request that was sent before: all of them, or those after `lastEventId`, beginning with a keyframe.
   * @param {{lastEventId?: string, signal?: AbortSignal, onWait?: (wait: Wait) => void}} options
   * @returns {AsyncGenerator<StreamEvent>}
   */
  async *attach(id, { lastEventId, signal, onWait } = {}) {
    const response = await this._send(eventsOf(id), { lastEventId, signal });
    await raiseForError(response);
    yield* this._follow(response, { id, returns: true, ends: false, lastEventId }, { signal, onWait });
  }

  /** An answer in JSON; a GET without `body`. */
  async json(path, { signal, ...options } = {}) {
    const response = await this._send(path, { signal, ...options });
    await raiseForError(response);
    const text = await response.text().catch((error) => {
      signal?.throwIfAborted();
      throw new ConnectionError(`the connection broke: ${error.message}`, { cause: error });
    });
    try {
      return parse(text);
    } catch (error) {
      throw new SampleError(`the answer to ${path} is not JSON`, { code: response.status, cause: error });
    }
  }

  async _send(path, { body, method, signal, lastEventId, keepalive } = {}) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.apiKey) headers.Authorization = `Bearer ${this.apiKey}`;
    if (lastEventId !== undefined) headers["Last-Event-ID"] = lastEventId;
    const options = { method: method ?? (body === undefined ? "GET" : "POST"), headers, signal, keepalive };
    if (body !== undefined) options.body = toJSON(body);
    try {
      return await this._fetch(new URL(path, this.baseUrl), options);
    } catch (error) {
      signal?.throwIfAborted();
      throw new ConnectionError(`the server cannot be reached: ${error.message}`, { cause: error });
    }
  }

  /** The events of one request over as many connections as it takes. */
  async *_follow(response, { id, returns, ends, lastEventId }, { signal, onWait }) {
    let over = false;
    let tries = 0;
    let cause = null;
    try {
      for (;;) {
        try {
          if (response !== null) {
            for await (const message of messages(response.body, signal)) {
              tries = 0;
              lastEventId = message.id || lastEventId;
              if (message.event === "error") throw fromEnvelope(message.data) ?? new SampleError("an error without a message");
              over = message.event === "done";
              yield message;
              if (over) return;
            }
            cause = new ConnectionError("the stream ended without done or error");
          }
        } catch (error) {
          if (!(error instanceof ConnectionError)) {
            over = error instanceof SampleError;
            throw error;
          }
          cause = error;
        }
        response = null;
        if (!returns || id === null || tries === PAUSES_MS.length) throw cause;
        const wished = PAUSES_MS[tries] * (0.5 + Math.random());
        const milliseconds = Math.max(wished, Math.min((cause.retryAfter ?? 0) * 1000, LONGEST_PAUSE_MS));
        tries += 1;
        const wait = { seconds: milliseconds / 1000, attempt: tries, error: cause, attached: true };
        await pause(milliseconds, signal, () => onWait?.(wait));
        [response, cause] = await this._comeBack(id, lastEventId, signal, cause);
      }
    } finally {
      if (!over && ends && id !== null) this.cancel(id, { keepalive: true }).catch(() => {});
    }
  }

  /** One try: the response that goes on, or null and why there is none. */
  async _comeBack(id, lastEventId, signal, cause) {
    try {
      const response = await this._send(eventsOf(id), { lastEventId, signal });
      const error = await errorOf(response);
      if (error === null) return [response, null];
      if (!TRANSIENT.has(error.code)) {
        throw new SampleError(`the stream broke off and cannot be read on: ${error.message}`, { ...error, cause });
      }
      return [null, new ConnectionError(error.message, error)];
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      return [null, error];
    }
  }
}

function eventsOf(id) {
  return `requests/${encodeURIComponent(id)}/events`;
}

/** Wait; rejects as soon as `signal` aborts. */
function pause(milliseconds, signal, announce) {
  signal?.throwIfAborted();
  announce();
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", leave, { once: true });
  });
}

/** JSON of a flat object whose values may be BigInt. */
export function toJSON(object) {
  const fields = Object.entries(object).filter(([, value]) => value !== undefined);
  return `{${fields.map(([name, value]) => `${JSON.stringify(name)}:${valueToJSON(value)}`).join(",")}}`;
}

function valueToJSON(value) {
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}

/** JSON whose `seed`, an integer of up to 63 bits, is a BigInt where a number would round it. */
function parse(text) {
  const data = JSON.parse(text);
  if (data !== null && typeof data === "object" && typeof data.seed === "number" && !Number.isSafeInteger(data.seed)) {
    const digits = /"seed":\s*(\d+)/.exec(text);
    if (digits !== null) data.seed = BigInt(digits[1]);
  }
  return data;
}

async function raiseForError(response) {
  const error = await errorOf(response);
  if (error !== null) throw error;
}

/** The error that a response is; null if it is none. */
async function errorOf(response) {
  if (response.ok) return null;
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const retryAfter = seconds >= 0 && seconds < Infinity ? seconds : null;
  const { status, statusText } = response;
  const body = await response.json().catch(() => null);
  return fromEnvelope(body, retryAfter, status) ?? new SampleError(`HTTP ${status} ${statusText}`.trim(), { code: status, retryAfter });
}

/** The error in an envelope; null where there is none. */
function fromEnvelope(envelope, retryAfter = null, status = null) {
  const error = envelope?.error;
  if (typeof error?.message !== "string") return null;
  return new SampleError(error.message, { type: error.type, param: error.param, code: error.code ?? status, retryAfter });
}

/** Events of a text/event-stream; a connection that breaks or falls silent is a ConnectionError. */
async function* messages(body, signal) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const message = { event: "message", id: "", data: [] };
  let rest = [];
  try {
    for (;;) {
      const { done, value } = await read(reader, signal);
      if (done) return;
      const lines = decoder.decode(value, { stream: true }).split("\n");
      rest.push(lines[0]);
      if (lines.length === 1) continue;
      lines[0] = rest.join("");
      rest = [lines.pop()];
      for (const line of lines) {
        const whole = take(line.endsWith("\r") ? line.slice(0, -1) : line, message);
        if (whole !== null) yield whole;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader, signal) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("nothing was heard for too long")), SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    signal?.throwIfAborted();
    throw new ConnectionError(`the connection broke: ${error.message}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** One line into `message`; at an empty one the whole message, which begins anew. */
function take(line, message) {
  if (line === "") {
    if (message.data.length === 0) return null;
    const whole = { event: message.event, id: message.id, data: parse(message.data.join("\n")) };
    [message.event, message.data] = ["message", []];
    return whole;
  }
  const colon = line.indexOf(":");
  if (colon === 0) return null;
  const [name, raw] = colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1)];
  const value = raw.startsWith(" ") ? raw.slice(1) : raw;
  if (name === "data") message.data.push(value);
  else if (name === "event") message.event = value;
  else if (name === "id") message.id = value;
  return null;
}
