/** Where the text of a sample ends before its tokens do: at an end token, or at a stop string. */

import { visible } from "../view/element.js";

/**
 * The first position that the text does not reach; the number of tokens where it reaches all, or where that cannot be told.
 * Tokens that a text leaves out, such as those of the frame, are no end of it.
 * @param {{text: string, finish_reason?: string}} sample as `done` tells it
 * @param {ArrayLike<number>} tokens
 * @param {(id: number) => string} textOf what a token adds to a text
 */
export function endOf({ text, finish_reason: reason }, tokens, textOf) {
  if (reason !== "stop" || typeof text !== "string") return tokens.length;
  let rest = letters(text);
  for (let position = 0; position < tokens.length; position += 1) {
    if (rest === "") return position;
    const piece = letters(textOf(tokens[position]));
    if (piece.startsWith(rest)) return position + 1;
    if (rest.startsWith(piece)) rest = rest.slice(piece.length);
  }
  return tokens.length;
}

/** Without spaces, which a tokenizer may put otherwise than its pieces have them. */
function letters(text) {
  return visible(text.replace(/\s+/g, ""));
}
