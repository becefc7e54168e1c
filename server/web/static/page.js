/** The page: what is asked, what runs, what is shown, and how they meet. */

import { Client } from "./client.js";
import { Form } from "./form/form.js";
import { endpointsOf, fits } from "./form/schema.js";
import { Sides, differenceOf, seeded } from "./form/sides.js";
import { Examples } from "./form/examples.js";
import { textsFor } from "./form/texts.js";
import { Player } from "./run/player.js";
import { Controls } from "./run/controls.js";
import { Run } from "./run/run.js";
import { runsIn } from "./share/archive.js";
import { receive } from "./share/files.js";
import { fragmentOf, settingsIn } from "./share/permalink.js";
import { Share } from "./share/share.js";
import { Key } from "./state/key.js";
import { Strip } from "./state/strip.js";
import { startTheme } from "./state/theme.js";
import { isFirst, remember } from "./state/visit.js";
import { byId, visible } from "./view/element.js";
import { Stage } from "./view/stage.js";
import { Vocabulary } from "./view/vocabulary.js";

/** Seeds that this page draws, when none is given: few digits, for links. */
const SEEDS = 2 ** 31;
/** Where a server tells what its tokens look like; older ones do not. */
const TOKENS = "/models/{name}/tokens";
/** A model of which this page has not been told: its server has changed. */
const UNKNOWN = { mask_token_id: -1, mask_token: "[MASK]" };

class Page {
  constructor() {
    this.client = new Client({ baseUrl: new URL("..", import.meta.url) });
    this.form = null;
    this.models = [];
    this.sides = new Sides(() => this._say(""));
    this.examples = new Examples((example) => this._play(example));
    this._vocabularies = new Map();
    this.player = new Player(() => this._draw());
    this.stage = new Stage(() => this.player.wake(), (run) => this._again(run));
    this.controls = new Controls(this.player);
    this.share = new Share(this);
    startTheme(byId("theme"));
    this.key = new Key(this.client, () => this._start());
    this.strip = new Strip(byId("strip"), this.client, {
      onRefused: (error) => this.key.refused(error),
      onReturn: () => this._start(),
    });
    this._listen();
    this._start();
  }

  /** What is asked, with the seed of what is shown: whoever takes it along gets the same tokens. */
  shareable() {
    const settings = this._asked();
    return settings && seeded(settings, this.runs[0]?.settings.parameters.seed);
  }

  /** What the form asks, and what is looked at; null where that cannot be sent. */
  _asked() {
    const all = this.sides.read();
    if (all === null || !this.stage.wantsConfidence) return all;
    return all.map(({ endpoint, parameters }) => ({ endpoint, parameters: { ...parameters, logprobs: true } }));
  }

  /** Fill the form. @returns {string[]} what is not known here */
  _fill(all) {
    if (all.some(({ parameters }) => parameters.logprobs === true)) this.stage.colourBy("confidence");
    return this.form === null ? [] : this.sides.fill(all);
  }

  get runs() {
    return this.player.runs;
  }

  get endpoints() {
    return this.form?.endpoints ?? [];
  }

  /** Load what the form is made of, when the server is ready, and fill it in. */
  async _start() {
    const turn = (this._turn = {});
    await this.strip.ready();
    if (turn !== this._turn) return;
    try {
      const models = await this.client.models();
      const openapi = await this.client.openapi();
      if (turn === this._turn) this._learn(openapi, models);
    } catch (error) {
      if (error.code === 401) return this.key.refused(error);
      this._notice(`The page cannot begin: ${error.message}. Trying again.`);
      setTimeout(() => turn === this._turn && this._start(), 2000);
    }
  }

  /** Make the form, unless the server is as it was; what has been filled in stays. */
  _learn(openapi, models) {
    const known = JSON.stringify([openapi, models]);
    if (known === this._known) return;
    const endpoints = endpointsOf(openapi);
    if (endpoints.length === 0) throw new Error("this server has no endpoint that samples");
    this._known = known;
    const filled = this.sides.read();
    this.models = models;
    this.tellsTokens = TOKENS in openapi.paths;
    this._vocabularies.clear();
    this.form = new Form(byId("fields"), endpoints, models, () => this._say(""));
    this.sides.form = this.form;
    this.stage.offersConfidence = endpoints.every(({ fields }) => fields.some(({ name }) => name === "logprobs"));
    byId("run").disabled = false;
    if (filled === null) this._restore();
    else this.sides.fill(filled);
    this.player.wake();
    this._offer(endpoints, models);
  }

  /** Offer examples, once it is known what the models can spell; the form does not wait for that. */
  async _offer(endpoints, models) {
    const known = this._known;
    const texts = await textsFor(this.client, models);
    if (known !== this._known) return; // the server has changed meanwhile
    this.examples.offer(endpoints, models, texts);
    this._welcome();
  }

  /** Who comes for the first time sees what it is about, where nobody waits for it. */
  async _welcome() {
    if (location.hash !== "" || !isFirst()) return;
    const { load } = await this.client.info().catch(() => ({ load: null }));
    const isAtWork = this.runs.length > 0 || byId("form").matches(":focus-within");
    if (isAtWork || load === null || load.running + load.waiting > 0 || this.examples.all.length === 0) return;
    remember();
    this._play(this.examples.all[0], true);
  }

  _listen() {
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this._isBusy) this._stop();
      else this._run();
    });
    addEventListener("pagehide", () => this.runs.forEach((run) => run.leave()));
    addEventListener("hashchange", () => this._restore());
    receive(byId("open-run"), (text) => this._open(text));
  }

  /** Fill in an example and run it. */
  _play(example, unasked = false) {
    if (this._isBusy) this._stop();
    this._fill(example.settings);
    this._run({ example, unasked });
  }

  /** Fill the form from the page's address. */
  _restore() {
    if (this.form === null) return;
    if (location.hash.slice(1) === this._fragment) return;
    const found = settingsIn(location.hash, this.endpoints);
    if (found === null) return;
    const unknown = this._fill(found.settings);
    const problems = [...found.problems, ...unknown.map((name) => `this server does not know ${name}`)];
    this._notice(problems.length === 0 ? "" : `The link was read but for this: ${problems.join("; ")}.`);
  }

  /** Send what the form asks; unasked, the page keeps quiet about it. */
  _run({ example = null, unasked = false } = {}) {
    this.form.forgive();
    this._say("");
    const asked = this._asked();
    if (asked === null) return;
    const all = seeded(asked, Math.floor(Math.random() * SEEDS));
    this._notice("");
    this.examples.mark(example);
    if (!unasked) this._remember(all);
    const runs = all.map((settings) => this._newRun(settings));
    this._show(runs, { unasked });
    this.strip.refresh();
    for (const run of runs) run.follow(this.client).finally(() => this._over(run, runs));
    if (!unasked && matchMedia("(max-width: 60rem)").matches) byId(example === null ? "stage" : "examples").scrollIntoView({ block: "start" });
  }

  _newRun(settings) {
    const endpoint = this.endpoints.find(({ path }) => path === settings.endpoint);
    const named = this.models.find(({ name }) => name === settings.parameters.model);
    const model = named ?? this.models.find((each) => endpoint !== undefined && fits(endpoint, each));
    const field = endpoint?.fields.find(({ name }) => name === "block_size");
    const blockSize = settings.parameters.block_size ?? (field && model?.block_size) ?? field?.default ?? null;
    return new Run({ ...settings, blockSize }, this.models, (run) => this._heard(run));
  }

  /** The same settings once more, in the same place. */
  _again(run) {
    const { blockSize: _, ...settings } = run.settings;
    const fresh = this._newRun(settings);
    const runs = this.runs.map((each) => (each === run ? fresh : each));
    this._show(runs);
    fresh.follow(this.client).finally(() => this._over(fresh, runs));
  }

  _show(runs, { unasked = false } = {}) {
    for (const run of this.runs) if (!runs.includes(run)) run.stop();
    const titles = runs.length === 1 ? [""] : ["Run A", "Run B"].map((name, index) => `${name}: ${visible(differenceOf(runs.map(({ settings }) => settings), index))}`);
    this.stage.show(runs, titles);
    this.controls.show(runs, { silent: unasked });
    this.player.show(runs);
    this._tellRunning();
  }

  _heard(run) {
    if (run.recording !== null && run.vocabulary === null) this._know(run);
    this.player.wake();
    this._tellRunning();
  }

  /** What the run's tokens look like: ids until the server has told, or where it does not. */
  async _know(run) {
    const { model: name } = run.recording.start;
    const model = run.model(name) ?? UNKNOWN;
    run.vocabulary = new Vocabulary(model);
    if (!this.tellsTokens) return;
    if (!this._vocabularies.has(name)) {
      this._vocabularies.set(name, this.client.tokens(name).then((told) => new Vocabulary(model, told)));
    }
    try {
      run.vocabulary = await this._vocabularies.get(name);
    } catch {
      this._vocabularies.delete(name);
    }
    this.player.wake();
  }

  _over(run, runs) {
    this.strip.refresh();
    this.player.wake();
    this._tellRunning();
    if (this.runs !== runs || run.error === null) return;
    if (run.error.code === 401) this.key.refused(run.error);
    if (run.error.code !== 422) return;
    const side = runs.indexOf(run);
    if (side !== this.sides.shown) this.sides.turnTo(side);
    if (!this.form.refuse(run.error)) this._say(run.error.message);
  }

  _stop() {
    for (const run of this.runs) run.stop();
  }

  get _isBusy() {
    return this.runs.some((run) => !run.isOver);
  }

  _tellRunning() {
    const button = byId("run");
    const text = this._isBusy ? "Stop" : "Run";
    if (button.textContent !== text) button.textContent = text;
    button.classList.toggle("stops", this._isBusy);
  }

  _remember(all) {
    this._fragment = fragmentOf(all, this.endpoints);
    history.replaceState(null, "", `#${this._fragment}`);
    this._fragment = location.hash.slice(1);
  }

  _open(text) {
    try {
      const runs = runsIn(text);
      this._show(runs);
      this.examples.mark(null);
      this._fill(runs.map(({ settings }) => settings));
      this._notice("A saved run: it plays without the server.");
    } catch (error) {
      this._notice(`This run cannot be opened: ${error.message}.`);
    }
  }

  /** What is wrong with the request as a whole. */
  _say(text) {
    byId("form-problem").textContent = visible(text);
    byId("form-problem").hidden = text === "";
  }

  _notice(text) {
    byId("notice").textContent = visible(text);
    byId("notice").hidden = text === "";
  }

  _draw() {
    this.controls.draw();
    this.stage.draw(this.player);
    this.share.draw(this.runs);
  }
}

new Page();
