// How the occlusion map and its check are shown.

import { h, percent } from "./dom.js";
import { where } from "./look.js";

const SIDE = 300; // of the drawn map, pixels

// The picture in grey below the map in orange.
function heat(image, { grid, cells }, label) {
  const canvas = h("canvas", { width: String(SIDE), height: String(Math.round((SIDE * image.height) / image.width)), role: "img" });
  canvas.setAttribute("aria-label", `Map over the picture: covering it lowers the probability of ${label} most ${where({ grid, cells })}.`);
  const context = canvas.getContext("2d");
  const below = new ImageData(image.width, image.height);
  for (let i = 0; i < image.width * image.height; i++) {
    const at = i * image.channels;
    const grey = image.channels === 1 ? image.data[at] : 0.3 * image.data[at] + 0.59 * image.data[at + 1] + 0.11 * image.data[at + 2];
    below.data.set([grey, grey, grey, 255], 4 * i);
  }
  const above = new ImageData(grid, grid);
  const top = Math.max(...cells, 1e-9);
  cells.forEach((value, cell) => above.data.set([255, 106, 26, Math.round(215 * Math.max(0, value / top))], 4 * cell));
  const paint = (pixels, smooth) => {
    const small = Object.assign(document.createElement("canvas"), { width: pixels.width, height: pixels.height });
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  };
  paint(below, false);
  paint(above, true);
  return canvas;
}

function chart({ fractions, map, elsewhere, whole, share }) {
  const [width, height, left, bottom] = [330, 170, 34, 30];
  const x = (fraction) => left + (fraction / fractions.at(-1)) * (width - left - 8);
  const y = (value) => 8 + (1 - value) * (height - bottom - 8);
  const line = (values) => `M${x(0)} ${y(whole)}` + values.map((value, i) => `L${x(fractions[i])} ${y(value)}`).join("");
  const tick = (text, attributes) => h("text", attributes, text);
  return h("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    [0, 0.5, 1].map((value) => h("g", {},
      h("line", { class: "axis", x1: left, x2: width, y1: y(value), y2: y(value) }),
      tick(`${100 * value} %`, { x: left - 6, y: y(value) + 4, "text-anchor": "end" }))),
    [0, share, fractions.at(-1)].map((fraction) =>
      tick(fraction ? `${100 * fraction} % covered` : "0", { x: x(fraction), y: height - 8, "text-anchor": fraction === fractions.at(-1) ? "end" : "middle" })),
    h("path", { class: "chance", d: line(elsewhere) }),
    h("path", { class: "map", d: line(map) }));
}

function explanation(result, label) {
  const { whole, share, kept, keptElsewhere, places, beaten, isBelievable } = result;
  const falls = `With the ${percent(share)} covered that the map names first, “${label}” goes from ${percent(whole)} to ${percent(kept)}; `;
  const others = `with the same shape covered elsewhere, to ${percent(keptElsewhere)} on average.`;
  return h("div", { class: "verdict" },
    h("strong", { class: isBelievable ? "yes" : "no" }, isBelievable ? "Believe the map" : "Do not believe the map"),
    h("p", {}, falls, others),
    h("p", { class: "soft small" }, isBelievable
      ? `Of ${places} other places, ${beaten} matter less.`
      : `Of ${places} other places, ${beaten} matter less, and not enough to tell.`));
}

export function lookView(image, result, label) {
  return [
    h("figure", {}, heat(image, result, label), h("figcaption", {}, `Orange: without it, “${label}” gets less probable. ${result.copies} covered copies, ${result.grid} × ${result.grid} cells.`)),
    h("figure", { class: "chart" }, chart(result), h("figcaption", {}, `Probability of “${label}” while the picture is covered: solid where the map says, dashed elsewhere.`)),
    explanation(result, label),
  ];
}
