/** What the tokens of a model look like. */

import { visible } from "./element.js";

/** Beginning of a piece that goes on with the word before it, as WordPiece writes it. */
const CONTINUES = "##";

export class Vocabulary {
  /**
   * @param {{mask_token_id: number, mask_token: string}} model
   * @param {?{pieces: string[] | Record<number, string>, separates?: boolean}} told null where the server does not tell its
   *   pieces: then cells show ids. `separates`: whether words do not hold the spaces between them; by default as all pieces
   *   of the vocabulary show it.
   */
  constructor(model, told = null) {
    this.mask = model.mask_token_id;
    this.model = model;
    this.pieces = told?.pieces ?? null;
    this.separates = told?.separates ?? !Object.values(this.pieces ?? {}).some((piece) => /^\s/.test(piece));
    this._labels = new Map();
  }

  get isKnown() {
    return this.pieces !== null;
  }

  /** What a cell shows: one line, without the space in front. */
  label(id) {
    let label = this._labels.get(id);
    if (label === undefined) {
      const piece = this.piece(id);
      const trimmed = piece.startsWith(" ") && piece.trim() !== "" ? piece.slice(1) : piece;
      label = visible(trimmed.replace(/^ +$/, (spaces) => "␣".repeat(spaces.length)));
      this._labels.set(id, label);
    }
    return label;
  }

  /** What the token adds to a text: its space in front, its line ends. */
  text(id) {
    if (!this.isKnown) return `${id} `;
    const piece = this.piece(id);
    if (!this.separates) return readable(piece);
    return piece.startsWith(CONTINUES) ? readable(piece.slice(CONTINUES.length)) : ` ${readable(piece)}`;
  }

  piece(id) {
    return this.pieces?.[id] ?? String(id);
  }

  /** The pieces of these ids alone, for a run that is saved. */
  only(ids) {
    if (!this.isKnown) return null;
    return Object.fromEntries([...ids].map((id) => [id, this.piece(id)]));
  }
}

/** Text in lines, control characters shown. */
function readable(text) {
  return text
    .split("\n")
    .map((line) => visible(line.replaceAll("\t", "    ")))
    .join("\n");
}
