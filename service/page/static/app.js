// The page: what is chosen, what was sent, what came back. Draws with the modules beside it.

import * as api from "./api.js";
import { answer, sentence } from "./answer.js";
import { about, candidates, details } from "./card.js";
import { $, h, milliseconds } from "./dom.js";
import { Pad } from "./draw.js";
import { between, read } from "./live.js";
import { look, pixelsOf } from "./look.js";
import { lookView } from "./lookview.js";
import { LANGUAGES, snippet } from "./snippets.js";

const POLL_MS = 2500;
const TOP = 5;
const DIGITS = [..."0123456789"];

const state = {
  index: null, // of all models, as /models says it
  name: "",
  version: "", // "": the one that answers by default
  card: null,
  files: [], // what was sent last; another model that is chosen is asked about it too
  batch: null, // the last answer; see answer.js
  language: LANGUAGES[0],
  sums: null, // of /metrics, and when
};
const entry = () => state.index?.models.find(({ name }) => name === state.name);

// --- Trouble, in words that say what to do ---

function words(error) {
  switch (error.status) {
    case 0: return ["The service does not answer.", "It may be stopping or starting; this page tries again by itself."];
    case 400: case 413: case 415: return ["The service could not use this.", error.message];
    case 401: case 403: return [api.key() ? "The service does not know this key." : "The service asks for a key.", error.message];
    case 404: return ["This is not served any more.", error.message];
    case 429: return ["The service is busy.", `${error.message}. Try again${error.retryAfter ? ` in ${error.retryAfter} s` : ""}.`];
    case 503: return ["Not ready yet.", error.message];
    case 504: return ["It took too long.", error.message];
    default: return ["The service failed; its log says why.", error.message ?? String(error)];
  }
}

function tell(place, error, again) {
  if (error && !(error instanceof api.ServiceError)) {
    console.error(error);
    error = { status: -1, message: "This page failed; reload it." };
  }
  if (error?.status === 401) askForKey();
  const [title, text] = error ? words(error) : [];
  const said = error ? `${title} ${text}` : "";
  if ($(place).dataset.said === said) return; // a screen reader would say it again
  $(place).dataset.said = said;
  const retry = again && [0, 429, 503, 504].includes(error?.status)
    ? h("button", { type: "button", class: "quiet", onclick: again }, "Try again") : null;
  $(place).replaceChildren(...(error ? [h("div", { class: "notice error" }, h("p", {}, h("strong", {}, title)), h("p", {}, text, " ", retry))] : []));
}

function askForKey() {
  if (!$("key-form").hidden) return;
  $("key-form").hidden = false;
  $("key").focus();
}

// --- Models ---

function option(value, text) {
  return h("option", { value }, text);
}

function showPicker() {
  const { models } = state.index;
  $("model").replaceChildren(...models.map(({ name }) => option(name, name)));
  $("model").value = state.name;
  const { version, versions } = entry();
  $("version").replaceChildren(
    ...(version === null ? [] : [option("", `${version} (default)`)]),
    ...versions.toReversed().map((number) => option(String(number), String(number))));
  $("version").value = state.version;
  $("model").disabled = $("version").disabled = false;
}

async function showCard() {
  const { name, version } = state;
  const card = await api.card(name, version);
  if (name !== state.name || version !== state.version) return;
  state.card = card;
  $("about").textContent = about(card);
  $("card-title").textContent = `${card.model}, version ${card.version}`;
  $("card").replaceChildren(...[h("div", { id: "candidates" }), details(card)]);
  $("card-part").hidden = false;
  showCandidates();
  await showSamples(card);
  suggestDigits();
}

function showCandidates() {
  const { shadow } = entry() ?? {};
  const counts = shadow && state.sums?.shadows[`${state.name}:${shadow.version}`];
  $("candidates")?.replaceChildren(...[entry() && candidates(entry(), counts)].filter(Boolean));
}

async function showSamples({ model, version, golden }) {
  let images = [];
  try {
    images = await Promise.all(golden.map((_, number) => api.golden(model, version, number)));
  } catch (error) {
    if (!(error instanceof api.ServiceError)) throw error; // all else works without them
  }
  if (state.card.model !== model || state.card.version !== version) return;
  $("samples-part").hidden = !images.length;
  $("samples").replaceChildren(...images.map((blob, number) => {
    const name = `golden-${number}.png`;
    const image = h("img", { src: URL.createObjectURL(blob), alt: `Golden image ${number}, ${golden[number]}` });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    return h("li", {}, h("button", { type: "button", title: golden[number], onclick: () => send([new File([blob], name, { type: "image/png" })]) }, image));
  }));
}

async function choose(name, version) {
  Object.assign(state, { name, version });
  const turn = sending;
  showPicker();
  try {
    await showCard();
    tell("service");
    // What was sent while the card came has gone to this model already.
    if (state.files.length && turn === sending) await send(state.files);
  } catch (error) {
    tell("service", error);
  }
}

// What is served may have changed: a version was published, or one is gone.
async function refresh() {
  const index = await api.index();
  const before = JSON.stringify(state.index);
  state.index = index;
  if (JSON.stringify(index) === before) return;
  if (!index.models.length) throw new api.ServiceError(503, "no model is loaded");
  const answering = state.card?.version;
  if (!entry()) state.name = index.models.some(({ name }) => name === index.default) ? index.default : index.models[0].name;
  const { version, versions } = entry();
  if (!versions.includes(Number(state.version))) state.version = version === null ? String(versions.at(-1)) : "";
  showPicker();
  await showCard();
  if (answering && state.card.version !== answering) {
    $("said").textContent = `Version ${state.card.version} of ${state.name} answers now.`;
    $("about").textContent = `Version ${state.card.version} answers now. ${$("about").textContent}`;
  }
}

// --- Pictures ---

async function isSmall(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return false;
  }
  return Math.max(image.naturalWidth, image.naturalHeight) < 100;
}

let sending = 0;

// The card of what answered, which need not be the one that is shown: another version was published,
// or another model chosen, while the answer came.
async function cardOf({ model, version }) {
  const { card } = state;
  return card.model === model && card.version === version ? card : api.card(model, version);
}

function forget({ items }) {
  items.forEach(({ url, seen }) => [url, seen].forEach((each) => each && URL.revokeObjectURL(each)));
}

async function send(files) {
  const turn = ++sending;
  state.files = files;
  const path = api.predictPath(state.name, state.version, TOP);
  tell("trouble");
  $("answer-part").setAttribute("aria-busy", "true");
  try {
    const { answer: said, times } = await api.predict(path, files);
    if (turn !== sending) return;
    const card = await cardOf(said);
    const items = await Promise.all(files.map(async (file, number) => {
      const url = URL.createObjectURL(file);
      return { file, url, isSmall: await isSmall(url), result: said.results[number] };
    }));
    const batch = { items, selected: 0, times, path, card, precision: said.precision };
    if (turn !== sending) return forget(batch);
    if (state.batch) forget(state.batch);
    state.batch = batch;
    await select(0);
    showCode();
  } catch (error) {
    if (turn !== sending) return;
    state.files = state.batch?.items.map(({ file }) => file) ?? [];
    tell("trouble", error, () => send(files));
  } finally {
    if (turn === sending) $("answer-part").removeAttribute("aria-busy");
  }
}

async function select(number) {
  const { batch } = state;
  batch.selected = number;
  const item = batch.items[number];
  $("look-result").replaceChildren();
  tell("look-trouble");
  if (!item.result.error && !item.seen) {
    item.png = await api.pixels(batch.card.model, batch.card.version, item.file);
    item.seen = URL.createObjectURL(item.png);
  }
  if (batch !== state.batch || batch.selected !== number) return;
  const hadFocus = $("answer").contains(document.activeElement);
  $("answer").replaceChildren(answer(batch, (other) => select(other).catch((error) => tell("trouble", error))));
  if (hadFocus) $("answer").querySelector("[aria-pressed=true]")?.focus();
  $("said").textContent = sentence(item.file.name, item.result);
  $("look-part").hidden = Boolean(item.result.error);
  $("code-part").hidden = false;
}

async function showLook() {
  const { batch } = state;
  const item = batch.items[batch.selected];
  const [{ label, index }] = item.result.predictions;
  $("look").disabled = true;
  tell("look-trouble");
  try {
    const { card } = batch;
    const image = await pixelsOf(item.png, card.image.mode === "L" ? 1 : 3);
    const started = performance.now();
    const result = await look({ name: card.model, version: card.version }, image, index, card.limits);
    if (!result) throw new api.ServiceError(413, "even a coarse map of pictures of this size does not fit one request");
    $("look").textContent = `Cover and compare (took ${milliseconds(performance.now() - started)})`;
    if (item === state.batch.items[state.batch.selected]) $("look-result").replaceChildren(...lookView(image, result, label));
  } catch (error) {
    tell("look-trouble", error, showLook);
  } finally {
    $("look").disabled = false;
  }
}

// --- Code ---

function showCode() {
  $("code").textContent = snippet(state.language, state.batch.path, state.batch.items.map(({ file }) => file.name));
  $("copied").textContent = "";
}

function selectLanguage(language) {
  state.language = language;
  for (const tab of $("tabs").children) {
    const isIt = tab.textContent === language;
    tab.setAttribute("aria-selected", String(isIt));
    tab.tabIndex = isIt ? 0 : -1;
    if (isIt) $("code-panel").setAttribute("aria-labelledby", tab.id);
  }
  if (state.batch) showCode();
}

function makeTabs() {
  $("tabs").replaceChildren(...LANGUAGES.map((language) => h("button", {
    type: "button", role: "tab", id: `tab-${language}`, "aria-controls": "code-panel", onclick: () => selectLanguage(language),
  }, language)));
  $("tabs").addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    selectLanguage(LANGUAGES[(LANGUAGES.indexOf(state.language) + step + LANGUAGES.length) % LANGUAGES.length]);
    $("tabs").querySelector("[aria-selected=true]").focus();
  });
  selectLanguage(state.language);
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren($("code")); // without TLS browsers give no clipboard
    $("copied").textContent = "Selected; copy it with the keyboard.";
  }
}

// --- Drawing ---

const knowsDigits = (labels) => labels.length === 10 && DIGITS.every((digit) => labels.includes(digit));

async function suggestDigits() {
  const button = $("knows-digits");
  button.hidden = true;
  if ($("drawing").hidden || !state.card || knowsDigits(state.card.labels)) return;
  for (const { name } of state.index.models.filter(({ version }) => version !== null)) {
    if (!knowsDigits((await api.card(name, "")).labels)) continue;
    button.textContent = `${state.name} knows no digits: use ${name}`;
    button.onclick = () => choose(name, "");
    button.hidden = false;
    return;
  }
}

// Digits of few pixels fill their picture, larger ones stand in a margin of 4 of 28 (MNIST).
async function sendDrawing() {
  const { height, width } = state.card.image;
  const file = await pad.file(Math.min(height, width) < 20 ? 0 : 4 / 28);
  if (file) await send([file]);
}

const pad = new Pad($("pad"), (text) => { $("pad-state").textContent = text; }, sendDrawing);

// --- The service, every few seconds ---

function showLive(figures) {
  const shown = (value, text) => (Number.isFinite(value) ? text(value) : "–");
  $("live-rate").textContent = shown(figures?.rate ?? NaN, (rate) => (rate < 10 ? rate.toFixed(1) : rate.toFixed(0)));
  $("live-p99").textContent = shown(figures?.p99 ?? NaN, (p99) => milliseconds(1000 * p99));
  $("live-batch").textContent = shown(figures?.batch ?? NaN, (batch) => batch.toFixed(1));
}

async function readMetrics() {
  let sums;
  try {
    sums = { ...read(await api.metrics()), at: performance.now() / 1000 };
  } catch (error) {
    $("live").hidden = [403, 404].includes(error.status); // they have a port of their own
    return;
  }
  const before = state.sums;
  state.sums = sums;
  if (before) showLive(between(before, sums, sums.at - before.at));
  showCandidates();
}

let pollTimer = 0;

async function poll() {
  clearTimeout(pollTimer);
  let wait = POLL_MS;
  if (!document.hidden) {
    try {
      await refresh();
      tell("service");
      $("key-form").hidden = true;
      await readMetrics();
    } catch (error) {
      tell("service", error);
      if (error.status === 401) return; // the form goes on
      if (error.status === 429) wait = 1000 * Math.max(10, error.retryAfter);
    }
  }
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, wait);
}

// --- What people do ---

function take(files) {
  const [...all] = files;
  if (all.length && state.card) send(all);
}

function listen() {
  $("model").addEventListener("change", () => choose($("model").value, ""));
  $("version").addEventListener("change", () => choose(state.name, $("version").value));
  for (const id of ["files", "camera"]) {
    $(id).addEventListener("change", () => {
      take($(id).files);
      $(id).value = "";
    });
  }
  addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
  $("draw").addEventListener("click", () => {
    $("drawing").hidden = !$("drawing").hidden;
    $("draw").setAttribute("aria-expanded", String(!$("drawing").hidden));
    suggestDigits();
    if (!$("drawing").hidden) $("pad").focus();
  });
  $("clear").addEventListener("click", () => pad.clear());
  $("look").addEventListener("click", showLook);
  $("copy").addEventListener("click", copy);
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setKey($("key").value.trim());
    $("key-form").hidden = true;
    poll().then(showVersion);
  });
  document.addEventListener("visibilitychange", () => document.hidden || poll());
}

async function showVersion() {
  try {
    $("foveal-version").textContent = (await api.server()).version;
  } catch {
    // It is in the foot; whoever needs it sees the other errors first.
  }
}

makeTabs();
listen();
poll().then(showVersion);
