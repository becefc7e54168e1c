/** One request or two, of which the form shows one. */

import { byId } from "../view/element.js";

/** @typedef {import("./form.js").Settings} Settings */

export class Sides {
  /** @param {() => void} onChange */
  constructor(onChange) {
    /** @type {?import("./form.js").Form} */
    this.form = null;
    this.compares = byId("compare");
    this.choice = byId("sides");
    /** Which side the form shows. */
    this.shown = 0;
    this._settings = [null, null];
    this.compares.addEventListener("change", () => {
      this._compare();
      onChange();
    });
    this.choice.addEventListener("change", ({ target }) => this.turnTo(Number(target.value)));
  }

  /** What is asked, for each side. @returns {?Settings[]} null where it cannot be sent: then the form says why */
  read() {
    const here = this.form?.read() ?? null;
    if (here === null) return null;
    this._settings[this.shown] = here;
    return this.compares.checked ? this._settings.map((settings) => settings ?? here) : [here];
  }

  /** @param {Settings[]} all one or two @returns {string[]} what is not known here */
  fill(all) {
    this.compares.checked = all.length > 1;
    this._settings = [null, null];
    const unknown = [];
    for (const [side, settings] of [...all.entries()].reverse()) {
      unknown.push(...this.form.write(settings));
      this._settings[side] = this.form.read() ?? settings; // without what is not known
    }
    this._show(0);
    return unknown;
  }

  /** Show the other side, unless this one has something that cannot be sent. */
  turnTo(side) {
    const here = this.form?.read() ?? null;
    if (here === null) return this._show(this.shown);
    this._settings[this.shown] = here;
    this.form.write(this._settings[side] ?? here);
    return this._show(side);
  }

  /** A second side begins as a copy of the first. */
  _compare() {
    if (this.compares.checked) {
      const here = this.form?.read() ?? null;
      this.compares.checked = here !== null;
      if (here !== null) this._settings = [here, this._settings[1] ?? structuredClone(here)];
      if (here !== null) this.form.write(this._settings[1]);
      return this._show(here === null ? 0 : 1);
    }
    if (this.shown === 1) this.turnTo(0);
    return this._show(this.shown);
  }

  _show(side) {
    this.shown = side;
    this.choice.hidden = !this.compares.checked;
    for (const radio of this.choice.querySelectorAll("input")) radio.checked = Number(radio.value) === side;
  }
}

/** The same settings with a seed: where one side has one it is the other's, too; else it is `otherwise`. */
export function seeded(all, otherwise) {
  const given = all.map(({ parameters }) => parameters.seed).find((seed) => seed !== undefined) ?? otherwise;
  return all.map(({ endpoint, parameters }) => ({ endpoint, parameters: { ...parameters, seed: parameters.seed ?? given } }));
}

/** What tells one of two apart from the other, in words. @param {Settings[]} all */
export function differenceOf(all, index) {
  const [mine, other] = [all[index], all[1 - index]].map(({ endpoint, parameters }) => ({ endpoint, ...parameters }));
  const names = [...new Set([...Object.keys(mine), ...Object.keys(other)])].filter((name) => String(mine[name]) !== String(other[name]));
  // Of two decoders neither has the other's options, not even at their defaults.
  const own = mine.sampler === other.sampler ? names : names.filter((name) => name === "sampler" || mine[name] !== undefined);
  const parts = own.map((name) => (name === "endpoint" ? mine.endpoint : `${name} ${mine[name] ?? "default"}`));
  return parts.join(", ") || "the same";
}
