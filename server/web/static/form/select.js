/** A labelled choice, with help and place for a complaint. */

import { complain, element } from "../view/element.js";

/** @param {string} id @param {string} label */
export function select(id, label) {
  const input = element("select", { id, "aria-describedby": `${id}-help ${id}-problem` });
  const help = element("p", { class: "help", id: `${id}-help` });
  const problem = element("p", { class: "problem", id: `${id}-problem`, hidden: true });
  const made = element("div", { class: "field" }, element("label", { for: id }, label), input, help, problem);
  return { input, help, complain: (message) => complain(input, problem, message), element: made };
}
