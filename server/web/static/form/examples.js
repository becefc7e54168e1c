/** Requests to begin with, made of what the server has. */

import { fits } from "./schema.js";

/** Whether a server of other models is asked for Shakespeare: their names tell what they have read. */
const PLAYS = /shakespeare/i;

/**
 * @param {import("./schema.js").Endpoint[]} endpoints
 * @param {{name: string, process: string, mask_token: string}[]} models
 * @returns {{title: string, settings: import("./form.js").Settings[]}[]}
 */
export function examplesFor(endpoints, models) {
  const found = [];
  const offer = (title, path, process, ...all) => {
    const endpoint = endpoints.find((each) => each.path === path);
    const model = endpoint && models.find((each) => each.process === process && fits(endpoint, each));
    if (!model) return;
    const settings = all.map((make) => ({ endpoint: path, parameters: { model: model.name, ...make(model) } }));
    found.push({ title, settings });
  };
  const opening = models.some(({ name }) => PLAYS.test(name)) ? "ROMEO:\n" : "Once upon a time";
  offer("Out of blanks", "/sample", "absorbing", () => ({ seq_len: 64, num_inference_steps: 48 }));
  offer("Go on with a beginning", "/sample", "absorbing", () => ({ prompt: opening, seq_len: 96, num_inference_steps: 64 }));
  offer("Fill in the gaps", "/sample", "absorbing", ({ mask_token: mask }) => ({ template: gaps(mask), num_inference_steps: 24 }));
  offer("Out of random words", "/sample", "uniform", () => ({ seq_len: 64, num_inference_steps: 64 }));
  offer("Change its mind", "/sample/hybrid", "hybrid", () => ({ seq_len: 64, num_inference_steps: 64 }));
  offer("Block by block", "/sample/block", "absorbing", () => ({ seq_len: 96, num_inference_steps: 16, block_size: 16 }));
  offer(
    "Few steps or many",
    "/sample",
    "absorbing",
    () => ({ seq_len: 64, num_inference_steps: 4 }),
    () => ({ seq_len: 64, num_inference_steps: 128 }),
  );
  return found;
}

function gaps(mask) {
  const hole = mask.repeat(6);
  return `KING HENRY:\nMy lord,${hole}, and${hole}.\n\nQUEEN:\n${hole} the crown.`;
}
