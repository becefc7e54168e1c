/** The parameters of a page's runs in the fragment of its address, which no server is ever sent. Never the key. */

import { textOf, valueOf } from "../form/field.js";

/** Before the names of the second run's fields. */
const SECOND = "b.";

/** @typedef {import("../form/form.js").Settings} Settings @typedef {import("../form/schema.js").Endpoint} Endpoint */

/** @param {Settings[]} all one or two @param {Endpoint[]} endpoints @returns {string} without # */
export function fragmentOf(all, endpoints) {
  const query = new URLSearchParams();
  all.forEach(({ endpoint, parameters }, index) => {
    const before = index === 0 ? "" : SECOND;
    query.append(`${before}endpoint`, endpoint);
    const fields = fieldsOf(endpoints, endpoint);
    for (const [name, value] of Object.entries(parameters)) {
      if (value === undefined) continue;
      const field = fields.get(name) ?? { kind: "json" };
      query.append(before + name, value === null ? "null" : textOf(field, value));
    }
  });
  return query.toString();
}

/** What a fragment names; null for none. Values that cannot be read are left out and told. */
export function settingsIn(fragment, endpoints) {
  const query = new URLSearchParams(fragment.replace(/^#/, ""));
  if (!query.has("endpoint")) return null;
  const problems = [];
  const all = query.has(`${SECOND}endpoint`) ? ["", SECOND] : [""];
  const settings = all.map((before) => {
    const endpoint = query.get(`${before}endpoint`);
    const fields = fieldsOf(endpoints, endpoint);
    const parameters = Object.create(null); // a name may be __proto__: it is told as unknown like any other
    for (const [whole, text] of query) {
      if (whole.startsWith(SECOND) !== (before === SECOND)) continue;
      const name = whole.slice(before.length);
      if (name === "endpoint") continue;
      const field = fields.get(name) ?? { name, kind: "text" };
      try {
        const value = valueOf(field, text);
        if (value !== undefined) parameters[name] = value;
      } catch (error) {
        problems.push(error.message);
      }
    }
    return { endpoint, parameters };
  });
  return { settings, problems };
}

function fieldsOf(endpoints, path) {
  const found = endpoints.find((endpoint) => endpoint.path === path);
  return new Map((found?.fields ?? []).map((field) => [field.name, field]));
}
