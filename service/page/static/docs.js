// The service's OpenAPI document as a page: routes by tag, each with parameters, body and answers.

import { ServiceError, openapi } from "./api.js";
import { $, h } from "./dom.js";

const METHODS = ["get", "post", "put", "delete"];

function resolve(root, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((at, name) => at?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], root);
}

// A schema in one line, as far as it goes: {label: string, index: integer}[].
function type(root, schema, depth = 0) {
  const it = resolve(root, schema);
  if (!it) return "any";
  if (it.enum) return it.enum.map((value) => JSON.stringify(value)).join(" | ");
  for (const of of ["anyOf", "oneOf", "allOf"]) {
    if (it[of]) return it[of].map((each) => type(root, each, depth)).join(" | ");
  }
  if (it.type === "array") return `${type(root, it.items, depth)}[]`;
  if (it.properties && depth < 3) {
    const fields = Object.entries(it.properties).map(([name, field]) =>
      `${name}${it.required?.includes(name) ? "" : "?"}: ${type(root, field, depth + 1)}`);
    return `{${fields.join(", ")}}`;
  }
  const name = [it.type].flat().filter(Boolean).join(" | ") || "any";
  return it.format ? `${name} (${it.format})` : name;
}

function content(root, body) {
  return Object.entries(resolve(root, body)?.content ?? {}).map(([media, { schema }]) =>
    h("p", { class: "small" }, h("code", {}, media), " ", h("code", { class: "soft" }, type(root, schema))));
}

function parameters(root, operation) {
  const all = (operation.parameters ?? []).map((each) => resolve(root, each));
  if (!all.length) return null;
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parameters" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Parameter", "In", "Type", "What"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, all.map((each) => h("tr", {},
      h("th", { scope: "row" }, h("code", {}, each.name)),
      h("td", {}, each.in),
      h("td", {}, type(root, each.schema) + (each.schema?.default === undefined ? "" : `, ${each.schema.default} by default`)),
      h("td", {}, each.description ?? (each.required ? "required" : "")))))));
}

function answers(root, operation) {
  return Object.entries(operation.responses ?? {}).map(([status, response]) => {
    const it = resolve(root, response);
    return h("div", {},
      h("p", { class: "small" }, h("strong", {}, status === "default" ? "otherwise" : status), ` ${it.description ?? ""}`),
      content(root, it));
  });
}

function route(root, path, method, operation) {
  const body = content(root, operation.requestBody);
  return h("details", {},
    h("summary", {}, h("b", { class: "method" }, method.toUpperCase()), h("code", {}, path), h("span", {}, operation.summary ?? "")),
    h("div", { class: "inside" },
      operation.description && operation.description !== operation.summary ? h("p", {}, operation.description.replaceAll("`", "")) : null,
      parameters(root, operation),
      body.length ? [h("h3", {}, "Body"), body] : null,
      h("h3", {}, "Answer"), answers(root, operation)));
}

function routes(root) {
  const tags = new Map();
  for (const [path, methods] of Object.entries(root.paths)) {
    for (const method of METHODS.filter((name) => methods[name])) {
      const operation = methods[method];
      const tag = operation.tags?.[0] ?? "Other";
      tags.set(tag, [...(tags.get(tag) ?? []), route(root, path, method, operation)]);
    }
  }
  const order = ["Images", "Models", "Open Inference Protocol V2"];
  const rank = (tag) => (order.includes(tag) ? order.indexOf(tag) : order.length);
  return [...tags].sort(([a], [b]) => rank(a) - rank(b)).map(([tag, all]) => h("section", {}, h("h2", {}, tag), all));
}

try {
  const root = await openapi();
  $("routes").replaceChildren(...routes(root));
} catch (error) {
  if (!(error instanceof ServiceError)) throw error;
  const text = error.status === 401
    ? "This service asks for an API key. Give it on the first page, in this tab; then come back."
    : `The service does not say its routes: ${error.message}`;
  $("trouble").replaceChildren(h("p", { class: "notice error" }, text));
} finally {
  $("routes").removeAttribute("aria-busy");
}
