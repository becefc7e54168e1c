/** What can be asked of a server: the endpoints that stream samples, and their fields, from its OpenAPI document. */

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {"text" | "integer" | "number" | "boolean" | "choice" | "lines" | "integers" | "json"} kind
 * @property {boolean} nullable
 * @property {*} default undefined where there is none
 * @property {?number} minimum
 * @property {?number} maximum
 * @property {?boolean} exclusive whether `minimum` itself is not allowed
 * @property {string[]} options of a choice
 * @property {string} description
 * @property {?string[]} samplers the decoders that it is an option of; null where it is for all
 * @property {?Record<string, Record<string, any>>} presets of the field that names one: what each stands for
 *
 * @typedef {{path: string, title: string, description: string, fields: Field[], processes: ?string[]}} Endpoint
 *   `processes` is null where any fits.
 */

const PROCESSES = ["absorbing", "uniform", "hybrid"];
const STREAM = "text/event-stream";

/** @returns {Endpoint[]} those that sample and stream, in the order of the document */
export function endpointsOf(openapi) {
  return Object.entries(openapi.paths)
    .filter(([, item]) => item.post?.tags?.includes("sampling") && item.post.responses?.["200"]?.content?.[STREAM])
    .map(([path, { post }]) => ({
      path,
      title: path.replace(/^\//, ""),
      description: post.description ?? post.summary ?? "",
      fields: fieldsOf(openapi, post.requestBody.content["application/json"].schema),
      processes: processesIn(post.description ?? ""),
    }));
}

/** The description of an endpoint names the processes that it serves; where it names none, it serves all. */
function processesIn(description) {
  const named = PROCESSES.filter((process) => new RegExp(`\\b${process}\\b`, "i").test(description));
  return named.length === 0 ? null : named;
}

/** @returns {Field[]} */
function fieldsOf(openapi, schema) {
  const whole = resolve(openapi, schema);
  return Object.entries(whole.properties).map(([name, property]) => fieldOf(openapi, name, property));
}

function fieldOf(openapi, name, property) {
  const whole = resolve(openapi, property);
  const options = (whole.anyOf ?? whole.oneOf ?? [whole]).map((option) => resolve(openapi, option));
  const typed = options.filter((option) => option.type !== "null");
  const first = typed[0] ?? {};
  const samplers = whole["x-samplers"] ?? null;
  return {
    name,
    kind: kindOf(typed),
    nullable: typed.length < options.length && samplers === null, // null is an option's default, whatever that is
    default: whole.default,
    minimum: first.minimum ?? first.exclusiveMinimum ?? null,
    maximum: first.maximum ?? null,
    exclusive: first.exclusiveMinimum !== undefined,
    options: (first.enum ?? []).map(String),
    description: whole.description ?? "",
    samplers,
    presets: first["x-presets"] ?? null,
  };
}

function kindOf(typed) {
  const list = typed.find((option) => option.type === "array");
  if (list !== undefined) return { string: "lines", integer: "integers" }[list.items?.type] ?? "json";
  if (typed.length !== 1) return "json";
  if (typed[0].enum !== undefined && typed[0].enum.every((value) => typeof value === "string")) return "choice";
  return { string: "text", integer: "integer", number: "number", boolean: "boolean" }[typed[0].type] ?? "json";
}

function resolve(openapi, schema) {
  if (schema.$ref === undefined) return schema;
  const [, ...path] = schema.$ref.split("/");
  return path.reduce((node, key) => node[key], openapi);
}

/** Whether a model can be sampled at an endpoint; one that has blocks of its own only where samples are filled in blocks. */
export function fits(endpoint, model) {
  if ((model.block_size ?? null) !== null && !endpoint.fields.some(({ name }) => name === "block_size")) return false;
  return endpoint.processes === null || endpoint.processes.includes(model.process);
}
