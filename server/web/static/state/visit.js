/** Whether somebody is here for the first time, and may be shown something unasked. */

const NAME = "token-diffusion-seen";

/** Not for who wants little motion, nor where the browser keeps nothing: there it would be each time. */
export function isFirst() {
  try {
    return localStorage.getItem(NAME) === null && !matchMedia("(prefers-reduced-motion: reduce)").matches;
  } catch {
    return false;
  }
}

/** From now on it is not the first time. */
export function remember() {
  localStorage.setItem(NAME, "1");
}
