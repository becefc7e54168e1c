/** What examples begin with: a model is given the first text that it can spell. */

/** @typedef {{beginning: string, pieces: string[], gap: number}} Text pieces: what stands between gaps of so many tokens */

/** @type {Text[]} English; a molecule as SMILES, of as many atoms as QM9's have. */
const TEXTS = [
  {
    beginning: "Once upon a time",
    pieces: ["Once upon a time there was a little girl who", ". One day she", " in the forest, and", " home."],
    gap: 6,
  },
  { beginning: "C1CC1", pieces: ["CC(=O)", "C#N"], gap: 4 },
];

/** @param {Text} text @param {string} mask how the model writes a blank */
export function gapped({ pieces, gap }, mask) {
  return pieces.join(mask.repeat(gap));
}

/**
 * Those of absorbing models, which alone are asked to go on with a text.
 * @param {import("../client.js").Client} client
 * @param {{name: string, process: string, max_seq_len: ?number}[]} models
 * @returns {Promise<Map<string, Text>>} by the model's name; without those that can spell none
 */
export async function textsFor(client, models) {
  const absorbing = models.filter(({ process }) => process === "absorbing");
  const found = await Promise.all(absorbing.map(async (model) => [model.name, await textFor(client, model)]));
  return new Map(found.filter(([, text]) => text !== null));
}

async function textFor(client, { name: model, max_seq_len: longest }) {
  for (const text of TEXTS) {
    const prompt = text.pieces.join("");
    try {
      const { tokens, count } = await client.tokenize({ prompt, model });
      if (longest !== null && count + text.gap * (text.pieces.length - 1) > longest) continue;
      if (bare((await client.detokenize({ tokens, model })).prompt) === bare(prompt)) return text;
    } catch {
      // Refused: it cannot be spelt.
    }
  }
  return null;
}

/** Without what a tokenizer may change: spaces, and capital letters. */
function bare(text) {
  return text.replace(/\s/g, "").toLowerCase();
}
