/** The page: what is asked, what runs, what is shown, and how they meet. */

import { Client } from "./client.js";
import { Form } from "./form/form.js";
import { endpointsOf } from "./form/schema.js";
import { examplesFor } from "./form/examples.js";
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
import { byId, element, visible } from "./view/element.js";
import { Stage } from "./view/stage.js";
import { Vocabulary } from "./view/vocabulary.js";

/** Seeds that this page draws, when none is given: few digits, for links. */
const SEEDS = 2 ** 31;
/** Where a server tells what its tokens look like; older ones do not. */
const TOKENS = "/models/{name}/tokens";

class Page {
  constructor() {
    this.client = new Client({ baseUrl: new URL("..", import.meta.url) });
    this.form = null;
    this.models = [];
    /** What the form does not show: the settings of the other side. */
    this.sides = [null, null];
    this.side = 0;
    this._vocabularies = new Map();
    this.player = new Player(() => this._draw());
    this.stage = new Stage(() => this.player.wake(), (run) => this._again(run));
    this.controls = new Controls(this.player);
    this.share = new Share(this);
    startTheme(byId("theme"));
    this.key = new Key(this.client, () => this._start());
    this.strip = new Strip(byId("strip"), this.client, (error) => this.key.refused(error));
    this._listen();
    this._start();
  }

  /** What the form asks, for each side; null where it cannot be sent. */
  settings() {
    const here = this.form?.read() ?? null;
    if (here === null) return null;
    this.sides[this.side] = here;
    if (!byId("compare").checked) return [here];
    return this.sides.map((settings) => settings ?? here);
  }

  /** The same with the seed of what is shown, so that whoever takes it along gets the same tokens. */
  shareable() {
    const settings = this.settings();
    return settings && seeded(settings, this.runs[0]?.settings.parameters.seed);
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
      const [openapi, models] = await Promise.all([this.client.openapi(), this.client.models()]);
      this.models = models;
      this.tellsTokens = TOKENS in openapi.paths;
      this.form = new Form(byId("fields"), endpointsOf(openapi), models, () => this._changed());
      byId("run").disabled = false;
      this._offer();
      this._restore();
    } catch (error) {
      if (error.code === 401) this.key.refused(error);
      else this._notice(`The page cannot begin: ${error.message}. Trying again.`);
      if (error.code !== 401) setTimeout(() => turn === this._turn && this._start(), 2000);
    }
  }

  _listen() {
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this._isBusy) this._stop();
      else this._run();
    });
    byId("compare").addEventListener("change", () => this._compare());
    byId("sides").addEventListener("change", ({ target }) => this._turnTo(Number(target.value)));
    addEventListener("pagehide", () => this.runs.forEach((run) => run.leave()));
    addEventListener("hashchange", () => this._restore());
    receive(byId("open-run"), (text) => this._open(text));
  }

  /** Ready examples, one press each. */
  _offer() {
    const buttons = examplesFor(this.endpoints, this.models).map(({ title, settings }) => {
      const button = element("button", { type: "button", class: "example" }, title);
      button.addEventListener("click", () => {
        if (this._isBusy) this._stop();
        this._fill(settings);
        this._run();
      });
      return button;
    });
    byId("examples").replaceChildren(...buttons);
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

  /** @param {import("./form/form.js").Settings[]} settings one or two @returns {string[]} what is not known here */
  _fill(settings) {
    byId("compare").checked = settings.length > 1;
    this.sides = [settings[0], settings[1] ?? null];
    this.side = 0;
    this._showSides();
    return settings.toReversed().flatMap((each) => this.form.write(each));
  }

  _compare() {
    const here = this.form?.read();
    if (byId("compare").checked && here) {
      this.sides = [here, this.sides[1] ?? structuredClone(here)];
      this.side = 0;
      this._turnTo(1);
    } else {
      this.side = 0;
      if (this.sides[0] !== null) this.form?.write(this.sides[0]);
    }
    this._showSides();
    this._changed();
  }

  _turnTo(side) {
    const here = this.form.read();
    if (here !== null) {
      this.sides[this.side] = here;
      this.side = side;
      this.form.write(this.sides[side] ?? here);
    }
    this._showSides();
  }

  _showSides() {
    byId("sides").hidden = !byId("compare").checked;
    for (const radio of byId("sides").querySelectorAll("input")) radio.checked = Number(radio.value) === this.side;
  }

  _changed() {
    byId("form-problem").hidden = true;
  }

  /** Send what the form asks. */
  _run() {
    this.form.forgive();
    byId("form-problem").hidden = true;
    const asked = this.settings();
    if (asked === null) return;
    const all = seeded(asked, Math.floor(Math.random() * SEEDS));
    this._notice("");
    this._remember(all);
    const runs = all.map((settings) => this._newRun(settings));
    this._show(runs);
    for (const run of runs) run.follow(this.client).finally(() => this._over(run, runs));
    if (matchMedia("(max-width: 60rem)").matches) byId("stage").scrollIntoView({ block: "start" });
  }

  _newRun(settings) {
    const fields = this.endpoints.find(({ path }) => path === settings.endpoint)?.fields ?? [];
    const blockSize = settings.parameters.block_size ?? fields.find(({ name }) => name === "block_size")?.default ?? null;
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

  _show(runs) {
    for (const run of this.runs) if (!runs.includes(run)) run.stop();
    const titles = runs.length === 1 ? [""] : ["Run A", "Run B"].map((name, index) => `${name}: ${differenceOf(runs, index)}`);
    this.stage.show(runs, titles);
    this.controls.show(runs);
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
    const model = run.model(name);
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
    if (side !== this.side) this._turnTo(side);
    if (this.form.refuse(run.error)) return;
    byId("form-problem").textContent = visible(run.error.message);
    byId("form-problem").hidden = false;
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
      this._notice("A saved run: it plays without the server.");
    } catch (error) {
      this._notice(`This run cannot be opened: ${error.message}.`);
    }
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

/** The settings with a seed: where one side has one it is the other's, too. */
function seeded(all, otherwise) {
  const given = all.map(({ parameters }) => parameters.seed).find((seed) => seed !== undefined) ?? otherwise;
  return all.map(({ endpoint, parameters }) => ({ endpoint, parameters: { ...parameters, seed: parameters.seed ?? given } }));
}

/** What tells two runs apart, in words. */
function differenceOf(runs, index) {
  const [mine, other] = [runs[index], runs[1 - index]].map(({ settings }) => ({ endpoint: settings.endpoint, ...settings.parameters }));
  const names = [...new Set([...Object.keys(mine), ...Object.keys(other)])].filter((name) => String(mine[name]) !== String(other[name]));
  const parts = names.map((name) => (name === "endpoint" ? mine.endpoint : `${name} ${mine[name] ?? "default"}`));
  return visible(parts.join(", ") || "the same");
}

new Page();
