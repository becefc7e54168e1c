/** Elements made without markup: attributes and text, never HTML. */

/**
 * @param {string} name
 * @param {Record<string, string | number | boolean | null | undefined>} attributes true is an empty attribute; false, null
 *   and undefined none
 * @param {...(Node | string)} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/** The element of the page with this id. */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element #${id}`);
  return found;
}

/** Say what is wrong with an input in the element next to it; null for nothing. */
export function complain(input, problem, message) {
  problem.textContent = message ?? "";
  problem.hidden = message === null;
  if (message === null) input.removeAttribute("aria-invalid");
  else input.setAttribute("aria-invalid", "true");
}

/** Text safe to show on a line: control characters as the symbols that Unicode has for them, line ends as ↵. */
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu, symbol);
}

function symbol(character) {
  const code = character.codePointAt(0);
  if (code === 10) return "↵";
  if (code < 32) return String.fromCodePoint(0x2400 + code);
  if (code === 127) return "␡";
  return `‹${code.toString(16).toUpperCase().padStart(4, "0")}›`;
}
