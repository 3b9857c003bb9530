// The service's public routes, as any client may call them. Nothing else is fetched.

const KEY = "foveal-api-key"; // of this tab, gone with it

export class ServiceError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status; // 0: no answer
    this.retryAfter = retryAfter; // seconds
  }
}

export const key = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (value) => sessionStorage.setItem(KEY, value);

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ServiceError(0, "no answer");
  }
  if (!response.ok) {
    let message = response.statusText;
    try {
      message = (await response.json()).error;
    } catch {
      // A proxy's own page.
    }
    throw new ServiceError(response.status, message, Number(response.headers.get("Retry-After")) || 0);
  }
  return response;
}

const json = async (path) => (await call(path)).json();
const escaped = encodeURIComponent;

// The path of a model's routes; version "": the one that answers by default, or its canary.
export const modelPath = (name, version) => `models/${escaped(name)}${version ? `/versions/${version}` : ""}`;

export const index = () => json("models");
export const card = (name, version) => json(modelPath(name, version));
export const server = () => json("v2");
export const openapi = () => json("docs.json");
export const metrics = async () => (await call("metrics")).text();
export const golden = async (name, version, number) =>
  (await call(`${modelPath(name, version)}/golden/${number}`)).blob();

export function predictPath(name, version, top) {
  return `${modelPath(name, version)}/predict${top === 5 ? "" : `?top=${top}`}`;
}

// One file goes as it is, several as a form. Returns the answer, and where its time went, in ms.
export async function predict(path, files) {
  let body = files[0];
  let headers = { "Content-Type": "application/octet-stream" };
  if (files.length > 1) {
    body = new FormData();
    files.forEach((file) => body.append("file", file, file.name));
    headers = {};
  }
  const started = performance.now();
  const response = await call(path, { method: "POST", body, headers });
  const answer = await response.json();
  const whole = performance.now() - started;
  const timing = response.headers.get("Server-Timing") ?? "";
  const of = (name) => Number(timing.match(new RegExp(`\\b${name};dur=([\\d.]+)`))?.[1] ?? NaN);
  const [queue, run, total] = ["queue", "run", "total"].map(of);
  return { answer, times: { whole, queue, run, total } };
}

export async function pixels(name, version, file) {
  const headers = { "Content-Type": "application/octet-stream" };
  const path = `${modelPath(name, version)}/pixels`;
  return (await call(path, { method: "POST", body: file, headers })).blob();
}

// Probabilities of rows of pixels: one request of the Open Inference Protocol, in binary.
// rows: Uint8Array of N x H x W x C; shape: [N, H, W, C]. Returns a Float32Array for each row.
export async function infer(name, version, rows, shape) {
  const head = new TextEncoder().encode(JSON.stringify({
    inputs: [{ name: "images", datatype: "UINT8", shape, parameters: { binary_data_size: rows.length } }],
    outputs: [{ name: "probabilities", parameters: { binary_data: true } }],
  }));
  const response = await call(`v2/models/${escaped(name)}/versions/${version}/infer`, {
    method: "POST",
    body: new Blob([head, rows]),
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
  });
  const length = Number(response.headers.get("Inference-Header-Content-Length"));
  const values = new Float32Array((await response.arrayBuffer()).slice(length));
  const width = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, row) => values.subarray(row * width, (row + 1) * width));
}
