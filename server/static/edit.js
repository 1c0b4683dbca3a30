// The image to start from: chosen, dropped or taken from the gallery, with a mask painted on it.

const $ = (id) => document.getElementById(id);
const MAX_SIDE = 2048; // pixels; larger images are reduced here, since phones limit the size of a canvas
const STEP = 0.02; // of the image's width, by which a key moves the brush
const mask = document.createElement("canvas"); // opaque, and transparent where it is painted, as the API takes it
const tint = document.createElement("canvas");
let base = null; // a canvas with the image to repaint
let painted = false;
let brush = null; // position of the last stroke

export const active = () => base !== null;
export const size = () => `${base.width}x${base.height}`;

// The image as a file to show beside the result.
export const toFile = (canvas = base) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

export async function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("strength", $("strength").value);
  form.append("image", await toFile(), "image.png");
  if (painted) form.append("mask", await toFile(mask), "mask.png");
  return form;
}

export async function start(source) { // a file, or an image on the page
  const bitmap = await createImageBitmap(source);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  base = canvas;
  for (const other of [mask, tint, $("canvas")]) Object.assign(other, { width: canvas.width, height: canvas.height });
  $("source").hidden = false;
  clear();
}

function clear() {
  painted = false;
  brush = { x: base.width / 2, y: base.height / 2 };
  const context = mask.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.fillRect(0, 0, mask.width, mask.height);
  $("strength").value = 0.6;
  draw();
}

function remove() {
  base = null;
  $("source").hidden = true;
  $("choose").focus();
}

function draw(withBrush = false) {
  const over = tint.getContext("2d");
  over.globalCompositeOperation = "source-over";
  over.fillStyle = getComputedStyle($("canvas")).getPropertyValue("--accent-solid");
  over.fillRect(0, 0, tint.width, tint.height);
  over.globalCompositeOperation = "destination-out";
  over.drawImage(mask, 0, 0);
  const context = $("canvas").getContext("2d");
  context.clearRect(0, 0, mask.width, mask.height);
  context.drawImage(base, 0, 0);
  context.globalAlpha = 0.6;
  context.drawImage(tint, 0, 0);
  context.globalAlpha = 1;
  if (withBrush) {
    context.lineWidth = Math.max(1, mask.width / 200);
    context.strokeStyle = over.fillStyle;
    context.beginPath();
    context.arc(brush.x, brush.y, radius(), 0, 2 * Math.PI);
    context.stroke();
  }
  $("strength-shown").textContent = Number($("strength").value).toFixed(2);
}

const radius = () => (Number($("brush").value) / 200) * base.width;

function paintTo(point) {
  const context = mask.getContext("2d");
  context.globalCompositeOperation = "destination-out";
  Object.assign(context, { lineWidth: 2 * radius(), lineCap: "round" });
  context.beginPath();
  context.moveTo(brush.x, brush.y);
  context.lineTo(point.x, point.y);
  context.stroke();
  if (!painted) $("strength").value = 1; // what is painted over is replaced
  painted = true;
  brush = point;
}

function pointOf(event) {
  const box = $("canvas").getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * mask.width,
    y: ((event.clientY - box.top) / box.height) * mask.height,
  };
}

function onPointer(event) {
  if (event.type === "pointerdown") {
    $("canvas").setPointerCapture(event.pointerId);
    brush = pointOf(event);
  }
  if (event.buttons !== 1) return;
  event.preventDefault();
  paintTo(pointOf(event));
  draw();
}

function onKey(event) {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key] ?? [];
  if (x === undefined) return;
  event.preventDefault();
  event.stopPropagation(); // arrows browse the gallery elsewhere
  const inside = (value, end) => Math.min(Math.max(value, 0), end);
  const step = STEP * base.width;
  const point = { x: inside(brush.x + x * step, mask.width), y: inside(brush.y + y * step, mask.height) };
  if (event.shiftKey || event.key === " ") paintTo(point);
  brush = point;
  draw(true);
}

// `report` is told what was wrong with a file.
export function listen(report) {
  const open = (file) => start(file).catch(() => report("this file is no image that the browser can read"));
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) open($("file").files[0]);
    $("file").value = "";
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files[0]) open(event.clipboardData.files[0]);
  });
  for (const kind of ["pointerdown", "pointermove"]) $("canvas").addEventListener(kind, onPointer);
  $("canvas").addEventListener("keydown", onKey);
  $("canvas").addEventListener("focus", () => draw($("canvas").matches(":focus-visible")));
  $("canvas").addEventListener("blur", () => base && draw());
  $("strength").addEventListener("input", () => draw());
  $("clear-mask").addEventListener("click", clear);
  $("remove").addEventListener("click", remove);
}
