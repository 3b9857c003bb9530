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
  isStale: true, // whether the card of what is chosen is still to come
  asked: null, // {files, isDrawing, path}: what was sent last, answered or not
  batch: null, // the answer that is shown; see answer.js
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

const chosenPath = () => api.predictPath(state.name, state.version, TOP);

let showing = 0;

// Show the card of what is chosen, and ask it what another model was asked last. Returns whether it
// is shown: something else may have been chosen meanwhile.
async function showChosen() {
  const turn = ++showing;
  let card;
  try {
    card = await api.card(state.name, state.version);
  } catch (error) {
    if (turn !== showing) return false;
    throw error;
  }
  if (turn !== showing) return false;
  showCard(card);
  if (state.asked && state.asked.path !== chosenPath()) askAgain();
  return true;
}

function showCard(card) {
  Object.assign(state, { card, isStale: false });
  $("about").textContent = about(card);
  $("card-title").textContent = `${card.model}, version ${card.version}`;
  $("card").replaceChildren(...[h("div", { id: "candidates" }), details(card)]);
  $("card-part").hidden = false;
  showCandidates();
  showSamples(card);
  suggestDigits();
}

function showCandidates() {
  const { shadow } = entry() ?? {};
  const counts = shadow && state.sums?.shadows[`${state.name}:${shadow.version}`];
  $("candidates")?.replaceChildren(...[entry() && candidates(entry(), counts)].filter(Boolean));
}

// What all else works without: null if the service refuses it.
async function unlessRefused(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof api.ServiceError) return null;
    throw error;
  }
}

async function showSamples(card) {
  const { model, version, golden } = card;
  const images = await Promise.all(golden.map((_, number) => unlessRefused(api.golden(model, version, number))));
  if (card !== state.card) return;
  $("samples-part").hidden = !images.some(Boolean);
  $("samples").replaceChildren(...images.flatMap((blob, number) => {
    if (!blob) return [];
    const name = `golden-${number}.png`;
    const image = h("img", { src: URL.createObjectURL(blob), alt: `Golden image ${number}, ${golden[number]}` });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    return h("li", {}, h("button", { type: "button", title: golden[number], onclick: () => take([new File([blob], name, { type: "image/png" })]) }, image));
  }));
}

async function choose(name, version) {
  Object.assign(state, { name, version, isStale: true });
  showPicker();
  try {
    if (await showChosen()) tell("service");
  } catch (error) {
    tell("service", error); // the next look at the service tries again
  }
}

// What is served may have changed: a version was published, or one is gone.
async function refresh() {
  const index = await api.index();
  if (JSON.stringify(index) !== JSON.stringify(state.index)) state.isStale = true;
  state.index = index;
  if (!index.models.length) throw new api.ServiceError(503, "no model is loaded");
  if (!state.isStale) return;
  if (!entry()) state.name = index.models.some(({ name }) => name === index.default) ? index.default : index.models[0].name;
  const { version, versions } = entry();
  if (!versions.includes(Number(state.version))) state.version = version === null ? String(versions.at(-1)) : "";
  showPicker();
  const before = state.card;
  if (!(await showChosen())) return;
  if (before?.model === state.card.model && before.version !== state.card.version) {
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
  return card?.model === model && card.version === version ? card : api.card(model, version);
}

function forget({ items }) {
  items.forEach(({ url, seen }) => [url, seen].forEach((each) => each && URL.revokeObjectURL(each)));
}

// Ask what is chosen; what is shown stays until the answer is whole.
async function send(files, isDrawing = false) {
  const turn = ++sending;
  const path = chosenPath();
  state.asked = { files, isDrawing, path };
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
    await see(batch, items[0]);
    if (turn !== sending) return forget(batch);
    if (state.batch) forget(state.batch);
    state.batch = batch;
    showAnswer();
  } catch (error) {
    if (turn === sending) tell("trouble", error, () => send(files, isDrawing));
  } finally {
    if (turn === sending) $("answer-part").removeAttribute("aria-busy");
  }
}

// Ask what was asked last; a drawing is cut anew, as the model that is chosen now wants it.
async function askAgain() {
  const { asked } = state;
  const file = asked.isDrawing ? await drawing() : null;
  if (asked === state.asked) await send(file ? [file] : asked.files, asked.isDrawing);
}

const pixels = ({ card }, { file }) => api.pixels(card.model, card.version, file);

// Get what the model saw of a picture.
async function see(batch, item) {
  if (item.result.error || item.seen) return;
  item.png = await unlessRefused(pixels(batch, item));
  if (item.png) item.seen = URL.createObjectURL(item.png);
}

let selecting = 0;

async function select(number) {
  const turn = ++selecting;
  const { batch } = state;
  await see(batch, batch.items[number]);
  if (batch !== state.batch || turn !== selecting) return;
  batch.selected = number;
  showAnswer();
}

function showAnswer() {
  const { batch } = state;
  const item = batch.items[batch.selected];
  const hadFocus = $("answer").contains(document.activeElement);
  $("answer").replaceChildren(answer(batch, select));
  if (hadFocus) $("answer").querySelector("[aria-pressed=true]")?.focus();
  $("said").textContent = sentence(item.file.name, item.result);
  $("look-part").hidden = Boolean(item.result.error);
  $("look-result").replaceChildren();
  tell("look-trouble");
  Object.assign($("look"), { disabled: false, textContent: "Cover and compare" });
  $("code-part").hidden = false;
  showCode();
}

async function showLook() {
  const { batch } = state;
  const item = batch.items[batch.selected];
  const isShown = () => batch === state.batch && item === batch.items[batch.selected];
  const [{ label, index }] = item.result.predictions;
  $("look").disabled = true;
  tell("look-trouble");
  try {
    const { card } = batch;
    item.png ??= await pixels(batch, item);
    const image = await pixelsOf(item.png, card.image.mode === "L" ? 1 : 3);
    const started = performance.now();
    const result = await look({ name: card.model, version: card.version }, image, index, card.limits);
    if (!result) throw new api.ServiceError(413, "even a coarse map of pictures of this size does not fit one request");
    if (!isShown()) return;
    $("look").textContent = `Cover and compare (took ${milliseconds(performance.now() - started)})`;
    $("look-result").replaceChildren(...lookView(image, result, label));
  } catch (error) {
    if (isShown()) tell("look-trouble", error, showLook);
  } finally {
    if (isShown()) $("look").disabled = false;
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
  const { card } = state;
  if ($("drawing").hidden || !card || knowsDigits(card.labels)) return;
  for (const { name } of state.index.models.filter(({ version }) => version !== null)) {
    const other = await unlessRefused(api.card(name, ""));
    if (card !== state.card) return;
    if (!other || !knowsDigits(other.labels)) continue;
    button.textContent = `${card.model} knows no digits: use ${name}`;
    button.onclick = () => choose(name, "");
    button.hidden = false;
    return;
  }
}

// Digits of few pixels fill their picture, larger ones stand in a margin of 4 of 28 (MNIST).
function drawing() {
  const { height, width } = state.card?.image ?? { height: 28, width: 28 };
  return pad.file(Math.min(height, width) < 20 ? 0 : 4 / 28);
}

async function sendDrawing() {
  const file = await drawing();
  if (file) take([file], true);
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
      if (error.status === 401) wait = 10_000; // the form goes on before
      if (error.status === 429) wait = 1000 * Math.max(10, error.retryAfter);
    }
  }
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, wait);
}

// --- What people do ---

// What comes before the models are known is asked as soon as they are.
function take(files, isDrawing = false) {
  const [...all] = files;
  if (!all.length) return;
  if (state.name) send(all, isDrawing);
  else state.asked = { files: all, isDrawing, path: "" };
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
