// The last request as code to copy: curl, Python, JavaScript.

import { key } from "./api.js";

const shell = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quoted = (text) => JSON.stringify(text);
// curl reads , and ; in -F as its own; a name in quotes within is taken as it is.
const form = (name) => shell(/[,;"]/.test(name) ? `file=@"${name.replace(/["\\]/g, "\\$&")}"` : `file=@${name}`);

export const LANGUAGES = ["curl", "Python", "JavaScript"];

export function snippet(language, path, names) {
  const url = new URL(path, document.baseURI).href;
  const write = { curl, Python: python, JavaScript: javascript }[language];
  return write(url, names, Boolean(key()));
}

function curl(url, names, hasKey) {
  const body = names.length > 1 ? names.map((name) => `-F ${form(name)}`) : [`--data-binary ${shell(`@${names[0]}`)}`];
  const head = hasKey ? [`-H "Authorization: Bearer $FOVEAL_API_KEY"`] : [];
  return `curl ${[...head, ...body, shell(url)].join(" \\\n  ")}`;
}

function python(url, names, hasKey) {
  const authorization = '{"Authorization": f"Bearer {os.environ[\'FOVEAL_API_KEY\']}"}';
  const lines = hasKey ? ["import os"] : [];
  if (names.length > 1) {
    lines.push("from pathlib import Path", "", "import httpx  # pip install httpx", "");
    lines.push(`names = [${names.map(quoted).join(", ")}]`);
    lines.push('files = [("file", (name, Path(name).read_bytes())) for name in names]');
    lines.push(`answer = httpx.post(${quoted(url)}, files=files${hasKey ? `, headers=${authorization}` : ""})`);
    lines.push("answer.raise_for_status()", 'for name, result in zip(names, answer.json()["results"]):');
    lines.push("    print(name, result)");
    return lines.join("\n");
  }
  lines.unshift("import json");
  lines.push("from pathlib import Path", "from urllib.request import Request, urlopen", "");
  lines.push(`image = Path(${quoted(names[0])}).read_bytes()`);
  lines.push(`request = Request(${quoted(url)}, image${hasKey ? `, ${authorization}` : ""})`);
  lines.push("with urlopen(request) as answer:", '    for prediction in json.load(answer)["results"][0]["predictions"]:');
  lines.push('        print(prediction["label"], prediction["probability"])');
  return lines.join("\n");
}

function javascript(url, names, hasKey) {
  const headers = hasKey ? ", headers: { Authorization: `Bearer ${apiKey}` }" : "";
  const body = names.length > 1
    ? ["const body = new FormData();", 'for (const file of input.files) body.append("file", file);']
    : ["const body = input.files[0]; // of an <input type=\"file\">"];
  return [
    ...body,
    `const response = await fetch(${quoted(url)}, { method: "POST", body${headers} });`,
    "if (!response.ok) throw new Error((await response.json()).error);",
    "const { results } = await response.json();",
  ].join("\n");
}
