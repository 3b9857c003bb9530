// The card of a version: what was measured about it, where it comes from, what it is not for.

import { bytes, count, h, percent } from "./dom.js";

const UNKNOWN = "not recorded";

// One line under the picker.
export function about(card) {
  const { height, width, mode } = card.image;
  const facts = [`${count(card.labels.length)} labels`, `${width} × ${height} ${mode === "L" ? "grey" : "colour"}`];
  if (card.metrics) facts.push(`${percent(card.metrics.accuracy)} right on ${count(card.metrics.images)} ${card.metrics.split} images`);
  return facts.join(" · ");
}

function limits(card) {
  const many = `one of its ${count(card.labels.length)} labels`;
  if (card.thresholds) return "Anything but its labels: what it does not know gets none of them, or a wrong one.";
  const rule = `Anything but its labels. Every picture gets ${many}, often with a high probability: a circle that somebody drew is a bag to a model of clothes.`;
  return card.abstain ? `${rule} It abstains below ${percent(card.abstain.threshold)}.` : rule;
}

function measured({ metrics, parity, proof, abstain }) {
  const facts = [];
  facts.push(["Accuracy", metrics ? `${percent(metrics.accuracy)} of ${count(metrics.images)} ${metrics.split} images` : UNKNOWN]);
  const before = metrics?.calibration_error_before;
  facts.push(["Calibration", metrics
    ? `expected error ${percent(metrics.calibration_error)}${before ? `, ${percent(before)} before its temperature` : ""}`
    : UNKNOWN]);
  if (abstain) {
    const { images, answered, precision, split } = abstain.measured;
    facts.push(["Abstains", `below ${percent(abstain.threshold)}: answers ${percent(answered)} of ${count(images)} ${split} images, ${percent(precision)} of them rightly`]);
  }
  facts.push(["Parity", parity
    ? `${percent(parity.label_agreement)} same labels as the network on ${count(parity.images)} images, probabilities within ${parity.max_probability_difference.toExponential(1)}`
    : UNKNOWN]);
  facts.push(["Proof", proof
    ? `${percent(proof.label_agreement)} same labels as ${proof.reference}, from ${count(proof.images)} files to probabilities`
    : "none: it was exported, not adopted; see parity"]);
  return facts;
}

function origin(card) {
  const { provenance, statistics, image, files, runs_on } = card;
  const trained = statistics ? ` (${count(statistics.images)} images)` : "";
  const { device, precision, threads } = runs_on;
  return [
    ["Trained on", provenance ? `${provenance.dataset}${trained}, ${provenance.date.slice(0, 10)}` : UNKNOWN],
    ["Not for", limits(card)],
    ["A picture is", image.geometry.join(", ") || "taken as it is"],
    ["Files", files.map((file) => `${file.precision} ${bytes(file.size_bytes)}`).join(", ")],
    ["Runs on", `${device}, ${precision}, ${threads} ${threads === 1 ? "thread" : "threads"}`],
  ];
}

const facts = (pairs) => h("dl", {}, pairs.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));

// A candidate that gets a share of the requests; counts: of the shadow's rows by outcome.
export function candidates({ shadow, canary }, counts) {
  const said = [];
  if (canary) said.push(["Canary", `version ${canary.version} answers ${percent(canary.fraction)} of the requests that name no version`]);
  if (shadow) {
    const { agreed = 0, differed = 0 } = counts ?? {};
    const compared = agreed + differed;
    const so = compared ? `: the same label for ${percent(agreed / compared)} of ${count(compared)} rows` : ": nothing compared yet";
    said.push(["Shadow", `version ${shadow.version} runs unseen on ${percent(shadow.fraction)} of the requests${so}`]);
  }
  return said.length ? facts(said) : null;
}

function perClass({ labels, metrics }) {
  if (!metrics) return h("p", { class: "soft" }, `${count(labels.length)}: ${labels.slice(0, 200).join(", ")}${labels.length > 200 ? " …" : ""}`);
  const known = labels.map((label, index) => [label, metrics.per_class[index]]).sort((a, b) => (a[1] ?? 2) - (b[1] ?? 2));
  const shown = known.slice(0, 20);
  const caption = known.length > shown.length
    ? `The ${shown.length} of ${count(known.length)} labels that it gets right least often.`
    : "Share of each label's own images that got it.";
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Labels" }, h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Label"), h("th", { scope: "col", class: "number" }, "Right"))),
    h("tbody", {}, shown.map(([label, share]) =>
      h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "number" }, share === null ? "no images" : percent(share)))))));
}

function confusion({ labels, metrics }) {
  const rows = metrics?.confusion;
  if (!rows) return h("p", { class: "soft" }, "Confusion matrix: not recorded with this version.");
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, h("table", { class: "confusion" },
    h("caption", {}, h("span", {}, "Confusion: images of the label of a row that got the label of a column.")),
    h("thead", {}, h("tr", {}, h("td", {}), labels.map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, rows.map((row, truth) => {
      const all = row.reduce((sum, value) => sum + value, 0) || 1;
      return h("tr", {}, h("th", { scope: "row" }, labels[truth]), row.map((value, given) => {
        const share = value / all;
        const [colour, strength] = truth === given ? ["var(--accent-soft)", 100 * share] : ["var(--warn)", Math.min(30, 150 * share)];
        return h("td", { style: { background: `color-mix(in srgb, ${colour} ${strength}%, transparent)` } }, value ? count(value) : "·");
      }));
    }))));
}

export function details(card) {
  return h("div", {},
    h("div", { class: "card" }, facts(measured(card)), facts(origin(card))),
    h("div", { class: "card" },
      h("div", {}, h("h3", {}, "Labels"), perClass(card)),
      h("div", {}, h("h3", {}, "What it takes for what"), confusion(card))));
}
