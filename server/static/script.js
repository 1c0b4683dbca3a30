// The playground: uses the same API as any client, and shows previews of each image.

import * as edit from "./edit.js";
import { api, hasKey, headers, send } from "./request.js";
import { asCurl, asPython } from "./snippets.js";
import { imageUrl, serverSentEvents } from "./stream.js";

const $ = (id) => document.getElementById(id);
const MAX_KEPT = 60; // images in the gallery; the oldest are removed
const MAX_PROMPT_SHOWN = 240; // characters in the caption
const emptyMessage = $("stage").firstElementChild;
const kept = []; // {url, body, seed, size, seconds}, newest first
let shown = null;
let running = null; // AbortController of the current request

function requestBody() {
  const chosen = $("size").value === "custom" ? $("custom-size").value.trim() : $("size").value;
  const size = edit.active() ? edit.size() : chosen;
  const body = {
    prompt: $("prompt").value.trim() || $("prompt").placeholder,
    size,
    n: Number($("n").value) || 1,
    num_inference_steps: Number($("steps").value),
    guidance_scale: Number($("guidance").value),
  };
  if ($("negative").value.trim()) body.negative_prompt = $("negative").value.trim();
  if ($("seed").value.trim()) body.seed = Number($("seed").value);
  return body;
}

async function generate() {
  if (running || $("model").dataset.state !== "ready") return;
  const body = requestBody();
  running = new AbortController();
  setBusy(true);
  say("waiting in the queue");
  const started = performance.now();
  const figures = prepareStage(body);
  let finished = 0;
  try {
    const before = edit.active() ? URL.createObjectURL(await edit.toFile()) : null;
    const response = await send(body, running.signal);
    if (!response.ok) throw await failure(response);
    for await (const event of serverSentEvents(response)) {
      if (event.error) throw new Error(event.error.message);
      const figure = figures[event.image_index ?? 0];
      if (event.type === "comment") showProgress(event.text, figures, started);
      else if (event.type.endsWith(".partial_image")) show(figure, imageUrl(event));
      else if (event.type.endsWith(".completed")) {
        finished += 1;
        complete(figure, event, body, (performance.now() - started) / 1000, before);
      }
    }
    if (finished < figures.length) throw new Error("the connection closed before the last image");
    say(`${finished > 1 ? `${finished} images` : "done"} in ${seconds(started)}`);
  } catch (error) {
    for (const figure of document.querySelectorAll("figure.generating")) figure.remove();
    if (error.name === "AbortError") say(`cancelled after ${seconds(started)}`);
    else say(error.message, true);
    if (!$("stage").children.length && kept.length) select(kept[0]);
    else if (!$("stage").children.length) emptyStage();
  } finally {
    running = null;
    setBusy(false);
  }
}

async function failure(response) {
  const { error } = await response.json().catch(() => ({ error: { message: `status ${response.status}` } }));
  if (response.status === 401) {
    $("settings").open = true;
    $("key-field").hidden = false;
    $("key").focus();
  }
  return new Error(error.message);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function prepareStage(body) {
  const typed = /^\d+\s*[x*×]\s*\d+$/i.test(body.size);
  const [width, height] = (typed ? body.size : $("size").dataset.auto).split(/[x*×]/i);
  const figures = Array.from({ length: body.n }, (_, index) => {
    const bar = element("div", { className: "bar", role: "progressbar", ariaLabel: `Image ${index + 1}` });
    const figure = element("figure", { className: "generating" }, bar);
    figure.style.setProperty("--ratio", width / height);
    return figure;
  });
  $("stage").className = "";
  $("stage").replaceChildren(...figures);
  $("details").hidden = true;
  return figures;
}

function emptyStage() {
  $("stage").className = "empty";
  $("stage").replaceChildren(emptyMessage);
}

function show(figure, url) {
  const old = figure.querySelector("img");
  if (old) URL.revokeObjectURL(old.src);
  old?.remove();
  figure.classList.add("seen");
  figure.prepend(element("img", { src: url, alt: "preview" }));
}

function showProgress(comment, figures, started) {
  const [, index, step, steps] = comment.match(/image (\d+) step (\d+)\/(\d+)/) ?? [];
  if (!steps) return;
  const bar = figures[index].querySelector(".bar");
  bar.style.width = `${(100 * step) / steps}%`;
  bar.setAttribute("aria-valuenow", Math.round((100 * step) / steps));
  $("status").setAttribute("aria-live", "off"); // a screen reader would read every step; the progress bar reports it
  $("status").textContent = `step ${step} of ${steps}, ${seconds(started)}`;
}

function complete(figure, event, body, time, before) {
  const image = { url: imageUrl(event), body, seed: event.seed, size: event.size, time, before };
  show(figure, image.url);
  figure.querySelector("img").alt = body.prompt;
  figure.classList.remove("generating");
  figure.addEventListener("click", () => select(image));
  kept.unshift(image);
  $("gallery").prepend(thumbnail(image));
  for (const left of kept.splice(MAX_KEPT)) {
    URL.revokeObjectURL(left.url);
    $("gallery").lastChild.remove();
  }
  describe(image);
}

function select(image) {
  const figure = element("figure", {}, element("img", { src: image.url, alt: image.body.prompt }));
  const [width, height] = image.size.split("x");
  figure.style.setProperty("--ratio", width / height);
  $("stage").className = "";
  $("stage").replaceChildren(figure);
  describe(image);
}

function describe(image) {
  shown = image;
  const { body } = image;
  $("details").hidden = false;
  const words = body.prompt.length > MAX_PROMPT_SHOWN ? `${body.prompt.slice(0, MAX_PROMPT_SHOWN)}…` : body.prompt;
  $("caption").textContent =
    `${words} · ${image.size} · ${body.num_inference_steps} steps · guidance ${body.guidance_scale} · ` +
    `seed ${image.seed} · ${image.time.toFixed(1)} s`;
  Object.assign($("download"), { href: image.url, download: `sana-${image.seed}.png` });
  $("compare").hidden = !image.before;
  $("copy-curl").hidden = $("copy-python").hidden = Boolean(image.before); // the code would need the image's file
  setBefore(false);
  $("gallery-title").hidden = false;
  for (const button of $("gallery").querySelectorAll("button")) {
    button.setAttribute("aria-current", button.dataset.url === image.url);
  }
}

function setBefore(before) {
  $("compare").setAttribute("aria-pressed", before);
  $("compare").textContent = before ? "Show after" : "Show before";
}

function compare() {
  const before = $("compare").getAttribute("aria-pressed") !== "true";
  if (before) select(shown);
  $("stage").querySelector("img").src = before ? shown.before : shown.url;
  setBefore(before);
}

async function repaint() {
  select(shown);
  const image = $("stage").querySelector("img");
  await image.decode();
  await edit.start(image);
  $("source").scrollIntoView({ block: "nearest" });
  $("canvas").focus();
}

function thumbnail(image) {
  const preview = element("img", { src: image.url, alt: `${image.body.prompt}, seed ${image.seed}` });
  const button = element("button", { type: "button", title: image.body.prompt }, preview);
  button.dataset.url = image.url;
  button.addEventListener("click", () => {
    if (running) return;
    select(image);
    $("stage").scrollIntoView({ block: "nearest" });
  });
  return element("div", { role: "listitem" }, button);
}

const seconds = (started) => `${((performance.now() - started) / 1000).toFixed(1)} s`;

function say(text, bad = false) {
  $("status").setAttribute("aria-live", "polite");
  $("status").textContent = text;
  $("status").toggleAttribute("data-bad", bad);
}

function setBusy(busy) {
  $("generate").disabled = busy;
  $("cancel").hidden = !busy;
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // browsers offer the clipboard only on https and localhost
    const area = element("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1200);
}

function reuse({ body, seed }) {
  $("prompt").value = body.prompt;
  $("negative").value = body.negative_prompt ?? "";
  const listed = [...$("size").options].some((option) => option.value === body.size);
  $("size").value = listed ? body.size : "custom";
  if (!listed) $("custom-size").value = body.size;
  $("steps").value = body.num_inference_steps;
  $("guidance").value = body.guidance_scale;
  $("seed").value = seed;
  refresh();
  $("prompt").focus();
}

function refresh() {
  $("steps-shown").textContent = $("steps").value;
  $("guidance-shown").textContent = Number($("guidance").value).toFixed(1);
  $("custom").hidden = $("size").value !== "custom";
}

async function connect() {
  try {
    const response = await fetch(new URL("models", api), { headers: headers() });
    if (!response.ok) throw await failure(response);
    const model = (await response.json()).data[0];
    $("model").dataset.state = "ready";
    $("model").lastChild.textContent = model.id;
    $("size").dataset.auto = model.default_size;
    $("size").replaceChildren(
      ...model.sizes.map((size) => new Option(size.replace("x", " × "), size)),
      new Option("custom …", "custom"),
    );
    $("size").value = model.default_size;
    $("steps").max = Math.min(model.max_steps, Math.max(60, model.default_steps));
    $("steps").value = model.default_steps;
    $("guidance").value = model.default_guidance_scale;
    $("n").max = model.max_n;
    $("start").hidden = $("repaint").hidden = !model.takes_images;
    refresh();
    say("");
  } catch (error) {
    $("model").dataset.state = $("key-field").hidden ? "waiting" : "gone";
    $("model").lastChild.textContent = $("key-field").hidden ? "loading" : "API key required";
    say(error.message, !$("key-field").hidden);
    if ($("key-field").hidden) setTimeout(connect, 1500);
  }
}

function onKey(event) {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape") running?.abort();
  else if (event.key === "Enter" && event.target.tagName === "TEXTAREA" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    generate();
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    $("prompt").focus();
  } else if (event.key.startsWith("Arrow") && !typing && !running && shown) {
    const next = kept.indexOf(shown) + { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (kept[next]) select(kept[next]);
  }
}

function switchTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = localStorage.theme = dark ? "light" : "dark";
}

if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
$("key").value = sessionStorage.getItem("sana-key") ?? ""; // not .key, which is a method of every Storage
$("key").addEventListener("change", () => { sessionStorage.setItem("sana-key", $("key").value); connect(); });
$("form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
$("form").addEventListener("input", refresh);
$("cancel").addEventListener("click", () => running?.abort());
$("theme").addEventListener("click", switchTheme);
$("dice").addEventListener("click", () => { $("seed").value = ""; });
$("compare").addEventListener("click", compare);
$("repaint").addEventListener("click", repaint);
edit.listen((text) => say(text, true));
$("reuse").addEventListener("click", () => reuse(shown));
$("copy-curl").addEventListener("click", (event) => copy(event.target, asCurl(api, shown, hasKey())));
$("copy-python").addEventListener("click", (event) => copy(event.target, asPython(api, shown, hasKey())));
document.addEventListener("keydown", onKey);
if (matchMedia("(max-width: 760px)").matches) $("settings").open = false;
connect();
