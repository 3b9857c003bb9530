// The answer about one picture: its labels, what was sent and seen, where the time went.

import { h, milliseconds, percent } from "./dom.js";

// What a result says in one line, for the head of the answer and for screen readers.
export function verdict(result) {
  if (result.error) return { text: "No answer", share: "", note: result.error };
  const [first] = result.predictions;
  if (result.labels) {
    return {
      text: result.labels.join(", ") || "None of its labels",
      share: "",
      note: result.labels.length ? "Every label that reaches its threshold." : "No label reaches its threshold.",
    };
  }
  if (result.abstained) {
    return { text: "It abstains", share: "", note: `“${first.label}” comes first, with ${percent(first.probability)}: too little to answer.` };
  }
  return { text: first.label, share: percent(first.probability), note: "" };
}

export function sentence(name, result) {
  const { text, share, note } = verdict(result);
  return [`${name}: ${text}`, share, note].filter(Boolean).join(", ");
}

function bars(result, card) {
  return h("ol", { class: "bars" }, result.predictions.map(({ label, index, probability }) => {
    const threshold = card.thresholds?.[index] ?? null;
    const bar = h("div", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${100 * probability}%` } }));
    if (threshold !== null) bar.append(h("b", { style: { left: `${100 * threshold}%` } }));
    return h("li", {},
      h("span", { class: "name" }, label),
      bar,
      h("span", { class: "number" }, percent(probability),
        threshold === null ? null : h("span", { class: "unseen" }, `, threshold ${percent(threshold)}`)));
  }));
}

function pictures(item, card) {
  const { height, width, mode } = card.image;
  const sent = h("figure", {},
    h("img", { src: item.url, alt: `${item.file.name}, as it was sent`, class: item.isSmall ? "pixels" : "" }),
    h("figcaption", {}, "Sent: ", h("a", { href: item.url, download: item.file.name }, item.file.name)));
  sent.firstChild.addEventListener("error", () => {
    sent.replaceChildren(h("figcaption", {}, `${item.file.name}: this browser cannot show it.`));
  });
  const size = `${width}\u00a0×\u00a0${height}, ${mode === "L" ? "grey" : "colour"}`;
  const seen = item.seen
    ? h("figure", {},
      h("img", { src: item.seen, class: "pixels", alt: `The same, as the model saw it: ${size}` }),
      h("figcaption", {}, `Seen by the model: ${size}`))
    : null;
  return h("div", { class: "pictures" }, sent, seen);
}

function timeSplit({ whole, queue, run, total }, files) {
  if (!(total >= 0)) return null;
  const parts = [
    ["network and browser", Math.max(0, whole - total)],
    ["reading and decoding", Math.max(0, total - queue - run)],
    ["queue", queue],
    ["model", run],
  ];
  return h("div", {},
    h("h3", {}, `Where ${milliseconds(whole)} went${files > 1 ? ` for ${files} pictures` : ""}`),
    h("div", { class: "split", "aria-hidden": "true" },
      parts.map(([, value], number) => h("i", { class: `part-${number}`, style: { flexGrow: String(value / whole) } }))),
    h("ul", { class: "parts" },
      parts.map(([name, value], number) =>
        h("li", { class: `part-${number}` }, h("span", {}, `${name} ${milliseconds(value)}`)))));
}

function list(items, selected, onSelect) {
  return h("ul", { class: "files", "aria-label": "Pictures" }, items.map((item, number) => {
    const { text, share } = verdict(item.result);
    const image = h("img", { src: item.url, alt: "" });
    image.addEventListener("error", () => { image.style.visibility = "hidden"; });
    return h("li", {}, h("button", { type: "button", "aria-pressed": String(number === selected), onclick: () => onSelect(number) },
      image,
      h("span", { class: "name" }, item.file.name),
      h("span", { class: item.result.error ? "what bad" : "what" }, `${text} ${share}`)));
  }));
}

// batch: {items: [{file, url, isSmall, seen, result}], selected, times, path, card, precision}
export function answer(batch, onSelect) {
  const { card } = batch;
  const item = batch.items[batch.selected];
  const { text, share, note } = verdict(item.result);
  const by = `${card.model}, version ${card.version}${batch.precision ? `, in ${batch.precision}` : ""}`;
  return h("div", { class: "answer" },
    batch.items.length > 1 ? list(batch.items, batch.selected, onSelect) : null,
    h("div", {},
      h("p", { class: "first" }, text, share ? h("span", { class: "number" }, ` ${share}`) : null),
      note ? h("p", {}, note) : null,
      h("p", { class: "soft small" }, `Answered by ${by}.`)),
    item.result.error ? null : bars(item.result, card),
    pictures(item, card),
    timeSplit(batch.times, batch.items.length));
}
