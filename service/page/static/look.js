// What a model looked at: an occlusion map (Zeiler and Fergus 2014), and the deletion check (Petsiuk
// et al. 2018) that says whether to believe it. Both go through the public route of V2.

import { infer } from "./api.js";

const GRIDS = [8, 7, 6, 5, 4, 3, 2];
const FRACTIONS = [1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8]; // of the picture that is covered
const SEEN = 1 / 8; // the share that the verdict speaks of
// What the map is compared with: itself, moved elsewhere. Single cells at random would break a
// picture up more than one part of it does, wherever that is.
const ELSEWHERE = 9;
// The map must lower the probability more than all of these but one, and by so much of it more than
// they do on average.
const MARGIN = 0.05;

// Pixels of a PNG: {data: Uint8Array of H x W x C, height, width, channels}.
export async function pixelsOf(png, channels) {
  const bitmap = await createImageBitmap(png);
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const data = new Uint8Array(bitmap.width * bitmap.height * channels);
  for (let i = 0; i < data.length; i++) data[i] = rgba[4 * Math.floor(i / channels) + (i % channels)];
  return { data, height: bitmap.height, width: bitmap.width, channels };
}

// The median colour of the rim: what covers a part should look like what is behind the thing.
function rim({ data, height, width, channels }) {
  return Array.from({ length: channels }, (_, channel) => {
    const values = [];
    const add = (y, x) => values.push(data[(y * width + x) * channels + channel]);
    for (let x = 0; x < width; x++) [0, height - 1].forEach((y) => add(y, x));
    for (let y = 0; y < height; y++) [0, width - 1].forEach((x) => add(y, x));
    return values.sort((a, b) => a - b)[values.length >> 1];
  });
}

function cover(row, image, colour, grid, [fromY, fromX, toY, toX]) {
  const edge = (cell, size) => Math.round((Math.min(grid, Math.max(0, cell)) * size) / grid);
  for (let y = edge(fromY, image.height); y < edge(toY, image.height); y++) {
    for (let x = edge(fromX, image.width); x < edge(toX, image.width); x++) {
      for (let c = 0; c < image.channels; c++) row[(y * image.width + x) * image.channels + c] = colour[c];
    }
  }
}

async function probabilities(model, image, rows, label) {
  const body = new Uint8Array(rows.length * image.data.length);
  rows.forEach((row, number) => body.set(row, number * image.data.length));
  const shape = [rows.length, image.height, image.width, image.channels];
  const answers = await infer(model.name, model.version, body, shape);
  return answers.map((answer) => answer[label]);
}

// mulberry32: the same picture gets the same places each time.
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// The order of the map's cells, moved around the picture by at least a quarter of it.
function moved(order, grid, next) {
  const away = Math.ceil(grid / 4);
  let [down, right] = [0, 0];
  const step = (by) => Math.min(by, grid - by);
  while (Math.max(step(down), step(right)) < away) [down, right] = [Math.floor(next() * grid), Math.floor(next() * grid)];
  return order.map((cell) => ((Math.floor(cell / grid) + down) % grid) * grid + ((cell % grid) + right) % grid);
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// The map of one label. Windows of 2 x 2 cells, one cell apart; a cell's worth is the mean fall of
// the windows that cover it. Returns null if not even a coarse map fits one request.
export async function look(model, image, label, limits) {
  const most = Math.min(limits.images, Math.floor((0.9 * limits.body_bytes) / image.data.length));
  const grid = GRIDS.find((size) => size <= Math.min(image.height, image.width) && 1 + (size + 1) ** 2 <= most);
  if (!grid) return null;
  const colour = rim(image);
  const windows = [];
  for (let y = -1; y < grid; y++) for (let x = -1; x < grid; x++) windows.push([y, x, y + 2, x + 2]);
  const covered = windows.map((window) => {
    const row = image.data.slice();
    cover(row, image, colour, grid, window);
    return row;
  });
  const [whole, ...falls] = await probabilities(model, image, [image.data, ...covered], label);
  const cells = Array.from({ length: grid * grid }, (_, cell) => {
    const [y, x] = [Math.floor(cell / grid), cell % grid];
    return mean(windows.flatMap(([top, left], number) =>
      y >= top && y < top + 2 && x >= left && x < left + 2 ? [whole - falls[number]] : []));
  });
  const order = cells.map((_, cell) => cell).sort((a, b) => cells[b] - cells[a]);
  return { grid, cells, whole, copies: windows.length, ...(await check(model, image, label, { grid, colour, order, whole, most })) };
}

// Cover ever more cells: in the map's order, and in the same shape elsewhere.
async function check(model, image, label, { grid, colour, order, whole, most }) {
  const next = random(image.data.reduce((sum, value, i) => (sum + value * (i + 1)) | 0, 1));
  const count = Math.min(ELSEWHERE, Math.max(1, Math.floor(most / FRACTIONS.length) - 1));
  const orders = [order, ...Array.from({ length: count }, () => moved(order, grid, next))];
  const rows = orders.flatMap((cells) => FRACTIONS.map((fraction) => {
    const row = image.data.slice();
    for (const cell of cells.slice(0, Math.max(1, Math.round(fraction * grid * grid)))) {
      const [y, x] = [Math.floor(cell / grid), cell % grid];
      cover(row, image, colour, grid, [y, x, y + 1, x + 1]);
    }
    return row;
  }));
  const all = await probabilities(model, image, rows, label);
  const curves = orders.map((_, number) => all.slice(number * FRACTIONS.length, (number + 1) * FRACTIONS.length));
  const [map, ...chances] = curves;
  const elsewhere = FRACTIONS.map((_, step) => mean(chances.map((curve) => curve[step])));
  const beaten = chances.filter((curve) => mean(map) < mean(curve)).length;
  const at = FRACTIONS.indexOf(SEEN);
  return {
    fractions: FRACTIONS, map, elsewhere, places: count, beaten, share: SEEN, kept: map[at], keptElsewhere: elsewhere[at],
    isBelievable: beaten >= Math.max(1, count - 1) && mean(elsewhere) - mean(map) >= MARGIN * whole,
  };
}

// Where the map's weight lies, in words.
export function where({ grid, cells }) {
  const worth = cells.map((value) => Math.max(0, value));
  const sum = worth.reduce((total, value) => total + value, 0);
  if (!(sum > 0)) return "nowhere";
  const centre = (of) => worth.reduce((total, value, cell) => total + value * (of(cell) + 0.5), 0) / sum / grid;
  const [y, x] = [centre((cell) => Math.floor(cell / grid)), centre((cell) => cell % grid)];
  const word = (value, low, high) => (value < 0.4 ? low : value > 0.6 ? high : "");
  const words = [word(y, "upper", "lower"), word(x, "left", "right")].filter(Boolean);
  return words.length ? `in the ${words.join(" ")} part` : "around the middle";
}
