// A chart works without this file: each bar is a link into the log. With it: what a bar says at the pointer, arrow keys
// from bar to bar, and dragging over a span of time, which opens the log of that span. It uses what `page.js` declares.
"use strict";

const DRAGGED_PIXELS = 6;
const BESIDE_PIXELS = 8;
const times = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
let pointer = null; // where it is, null while keys are used
let drag = null;
let swallow = false;

function panelOf(element) {
  return element?.closest?.("[data-chart] svg")?.closest("[data-chart]");
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
  const beside = marked.right + BESIDE_PIXELS - frame.left; // never over what it tells of
  const before = marked.left - BESIDE_PIXELS - frame.left - tip.offsetWidth;
  tip.style.left = `${beside + tip.offsetWidth <= frame.width ? beside : Math.max(0, before)}px`;
}

function hide(panel) {
  for (const part of panel.querySelectorAll(".cursor, .tip, .dragged")) part.remove();
}

function hideOthers(panel) {
  for (const each of document.querySelectorAll("[data-chart]")) if (each !== panel) hide(each);
}

function openLog(panel, first, last) {
  const address = new URL(panel.dataset.log, location.href);
  address.searchParams.set("since", startOf(panel, first).toISOString().slice(0, 19));
  address.searchParams.set("until", startOf(panel, last + 1).toISOString().slice(0, 19));
  location.assign(address);
}

function follow(x) {
  if (Math.abs(x - drag.x) > DRAGGED_PIXELS) drag.moved = true;
  if (!drag.moved || drag.given) return;
  const here = spanAt(drag.panel, x);
  [drag.first, drag.last] = [Math.min(drag.start, here), Math.max(drag.start, here)];
  show(drag.panel, "dragged", drag.first, drag.last);
}

function giveUp() {
  if (drag) hide(drag.panel);
  drag = null;
}

document.addEventListener("pointermove", (event) => {
  pointer = { x: event.clientX, y: event.clientY };
  if (drag && !event.buttons) giveUp(); // it was let go of where nobody told
  if (drag) return follow(event.clientX);
  const panel = panelOf(event.target);
  hideOthers(panel);
  if (panel) show(panel, "cursor", spanAt(panel, event.clientX));
});

document.addEventListener("pointerdown", (event) => {
  const panel = event.button === 0 && event.pointerType !== "touch" ? panelOf(event.target) : null;
  if (panel) drag = { panel, x: event.clientX, start: spanAt(panel, event.clientX), moved: false, given: false };
});

addEventListener("pointerup", () => {
  const done = drag;
  drag = null;
  swallow = done?.moved ?? false;
  if (swallow && !done.given) openLog(done.panel, done.first, done.last);
});

addEventListener("pointercancel", giveUp);
document.documentElement.addEventListener("pointerleave", () => {
  pointer = null;
  if (!drag) hideOthers(null);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drag) {
    hide(drag.panel);
    drag.given = true;
  }
  const bar = event.target.closest?.("a.bar");
  if (!bar) return;
  const bars = [...bar.parentNode.querySelectorAll("a.bar")];
  const to = { ArrowLeft: bars.indexOf(bar) - 1, ArrowRight: bars.indexOf(bar) + 1, Home: 0, End: bars.length - 1 };
  const next = bars[to[event.key]];
  if (!next) return;
  event.preventDefault();
  pointer = null;
  next.focus();
});

// One stop for the Tab key: the bar that was looked at last.
function oneStop(svg, chosen) {
  for (const bar of svg.querySelectorAll("a.bar")) bar.tabIndex = bar === chosen ? 0 : -1;
}

document.addEventListener("focusin", (event) => {
  const bar = event.target.closest?.("a.bar");
  if (!bar) return;
  oneStop(bar.parentNode, bar);
  const panel = bar.closest("[data-chart]");
  const number = Math.round((Date.parse(bar.dataset.since) - Date.parse(panel.dataset.since)) / panel.dataset.step);
  bar.setAttribute("aria-label", words(panel, number).join(": "));
  if (bar.matches(":focus-visible")) show(panel, "cursor", number);
});

document.addEventListener("focusout", (event) => {
  const panel = event.target.closest?.("a.bar")?.closest("[data-chart]");
  if (panel && !pointer) hide(panel);
});

// A live part was exchanged under the pointer, which didn't move: what it said is said by the new one.
function ready(part) {
  for (const hint of part.querySelectorAll("[data-chart-hint]")) hint.hidden = false;
  for (const svg of part.querySelectorAll("[data-chart] svg")) {
    if (!svg.contains(document.activeElement)) oneStop(svg, [...svg.querySelectorAll("a.bar")].at(-1));
  }
  const panel = pointer && panelOf(document.elementFromPoint(pointer.x, pointer.y));
  if (panel && part.contains(panel)) show(panel, "cursor", spanAt(panel, pointer.x));
}

// A drag over links would carry them away; the click that ends a drag opens no bar.
document.addEventListener("dragstart", (event) => panelOf(event.target) && event.preventDefault());
document.addEventListener("click", (event) => swallow && event.preventDefault(), true);
document.addEventListener("exchanged", (event) => ready(event.target));
ready(document);
