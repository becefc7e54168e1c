/** A request as curl, Python and JSON: what they send is what the page sends. */

import { toJSON } from "../client.js";

/** @typedef {import("../form/form.js").Settings} Settings */

/** @param {Settings} settings @param {{baseUrl: string, hasKey: boolean}} where */
export function curlOf({ endpoint, parameters }, { baseUrl, hasKey }) {
  const lines = [`curl -N ${quoted(baseUrl.replace(/\/$/, "") + endpoint)}`, "-H 'Content-Type: application/json'"];
  if (hasKey) lines.push('-H "Authorization: Bearer $TD_API_KEY"');
  lines.push(`-d ${quoted(toJSON(parameters))}`);
  return lines.join(" \\\n  ");
}

/** With the Python package `token_diffusion_client`. */
export function pythonOf({ endpoint, parameters }, { baseUrl, hasKey }) {
  const method = endpoint.replace(/^\//, "").replaceAll(/\W+/g, "_");
  const fields = Object.entries(parameters).filter(([, value]) => value !== undefined);
  const given = fields.map(([name, value]) => `        ${name}=${literal(value)},\n`).join("");
  const key = hasKey ? ', api_key=os.environ["TD_API_KEY"]' : "";
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from token_diffusion_client import Client",
    "",
    `with Client(${literal(baseUrl.replace(/\/$/, ""))}${key}) as client:`,
    `    done = client.${method}(${given === "" ? "" : `\n${given}    `})`,
    "    for sample in done.samples:",
    "        print(sample.text)",
  ].join("\n");
}

/** The body of the request. */
export function jsonOf({ parameters }) {
  const lines = Object.entries(parameters)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `  ${toJSON({ [name]: value }).slice(1, -1).replace(":", ": ")}`);
  return lines.length === 0 ? "{}" : `{\n${lines.join(",\n")}\n}`;
}

/** One word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A value in Python, whose strings know all escapes of JSON's. */
function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, item]) => `${literal(key)}: ${literal(item)}`).join(", ")}}`;
  }
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}
