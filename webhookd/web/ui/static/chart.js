// A chart works without this file: each bar is a link into the log. With it: what a bar says at the pointer, arrow keys
// from bar to bar, and dragging over a span of time, which opens the log of that span.
"use strict";

const DRAGGED_PIXELS = 6;
const times = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
let drag = null;
let swallow = false;

function panelOf(event) {
  return event.target.closest?.("svg.outcomes, svg.durations")?.closest("[data-chart]");
}

// Which span is at a place, counted from the left.
function spanAt(panel, x) {
  const { left, width } = panel.querySelector("svg").getBoundingClientRect();
  const count = Number(panel.dataset.count);
  return Math.max(0, Math.min(count - 1, Math.floor(((x - left) / width) * count)));
}

function startOf(panel, number) {
  return new Date(Date.parse(panel.dataset.since) + number * Number(panel.dataset.step));
}

function barAt(panel, number) {
  const since = startOf(panel, number).getTime();
  return [...panel.querySelectorAll("a.bar")].find((bar) => Date.parse(bar.dataset.since) === since);
}

function words(panel, first, last = first) {
  const range = times.formatRange(startOf(panel, first), startOf(panel, last + 1));
  return first === last ? [range, barAt(panel, first)?.dataset.said ?? panel.dataset.nothing] : [range];
}

function overlay(panel, kind) {
  let part = panel.querySelector(`.${kind}`);
  if (!part) {
    part = document.createElement("div");
    part.className = kind;
    part.setAttribute("aria-hidden", "true");
    panel.append(part);
  }
  return part;
}

function cover(panel, kind, first, last) {
  const part = overlay(panel, kind);
  const frame = panel.getBoundingClientRect();
  const { left, width } = panel.querySelector("svg").getBoundingClientRect();
  const count = Number(panel.dataset.count);
  part.style.left = `${left - frame.left + (width * first) / count}px`;
  part.style.width = `${(width * (last - first + 1)) / count}px`;
  return part;
}

function show(panel, kind, first, last = first) {
  for (const title of panel.querySelectorAll("a.bar > title")) title.remove(); // the tooltip takes its place
  const marked = cover(panel, kind, first, last).getBoundingClientRect();
  const tip = overlay(panel, "tip");
  const [range, ...said] = words(panel, first, last);
  const when = document.createElement("strong");
  when.textContent = range;
  tip.replaceChildren(when, ...said.flatMap((each) => [document.createElement("br"), each]));
  const frame = panel.getBoundingClientRect();
  const most = Math.max(0, frame.width - tip.offsetWidth);
  tip.style.left = `${Math.min(most, Math.max(0, marked.left + marked.width / 2 - frame.left - tip.offsetWidth / 2))}px`;
}

function hide(panel) {
  for (const part of panel.querySelectorAll(".cursor, .tip, .dragged")) part.remove();
}

function open(panel, first, last) {
  const address = new URL(panel.dataset.log, location.href);
  address.searchParams.set("since", startOf(panel, first).toISOString().slice(0, 19));
  address.searchParams.set("until", startOf(panel, last + 1).toISOString().slice(0, 19));
  location.assign(address);
}

document.addEventListener("pointermove", (event) => {
  if (drag) {
    if (Math.abs(event.clientX - drag.x) > DRAGGED_PIXELS) drag.moved = true;
    if (!drag.moved) return;
    const here = spanAt(drag.panel, event.clientX);
    [drag.first, drag.last] = [Math.min(drag.start, here), Math.max(drag.start, here)];
    show(drag.panel, "dragged", drag.first, drag.last);
    return;
  }
  const panel = panelOf(event);
  for (const each of document.querySelectorAll("[data-chart]")) if (each !== panel) hide(each);
  if (panel) show(panel, "cursor", spanAt(panel, event.clientX));
});

document.addEventListener("pointerdown", (event) => {
  const panel = event.button === 0 && event.pointerType !== "touch" ? panelOf(event) : null;
  if (panel) drag = { panel, x: event.clientX, start: spanAt(panel, event.clientX), moved: false };
});

addEventListener("pointerup", () => {
  const done = drag;
  drag = null;
  swallow = done?.moved ?? false;
  if (swallow) open(done.panel, done.first, done.last);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drag) {
    hide(drag.panel);
    drag = null;
  }
  const bar = event.target.closest?.("a.bar");
  if (!bar) return;
  const bars = [...bar.parentNode.querySelectorAll("a.bar")];
  const to = { ArrowLeft: bars.indexOf(bar) - 1, ArrowRight: bars.indexOf(bar) + 1, Home: 0, End: bars.length - 1 };
  const next = bars[to[event.key]];
  if (!next) return;
  event.preventDefault();
  bar.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

document.addEventListener("focusin", (event) => {
  const bar = event.target.closest?.("a.bar");
  if (!bar) return;
  const panel = bar.closest("[data-chart]");
  const number = Math.round((Date.parse(bar.dataset.since) - Date.parse(panel.dataset.since)) / panel.dataset.step);
  bar.setAttribute("aria-label", words(panel, number).join(": "));
  if (bar.matches(":focus-visible")) show(panel, "cursor", number);
});

// A drag over links would carry them away; the click that ends a drag opens no bar.
document.addEventListener("dragstart", (event) => panelOf(event) && event.preventDefault());
document.addEventListener("click", (event) => swallow && event.preventDefault(), true);
for (const hint of document.querySelectorAll("[data-chart-hint]")) hint.hidden = false;
