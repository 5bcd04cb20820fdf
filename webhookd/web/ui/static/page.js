// The page works without this file. With it: times in the reader's zone, lists that keep up to date, a sign-in link that
// needs no typing. Nothing here writes text of others as markup: pages come from the server, escaped.
"use strict";

// The page's language, with the reader's own habits of writing times where they know it.
const spoken = document.documentElement.lang;
const language = navigator.languages.find((each) => each.split("-")[0] === spoken) ?? spoken;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const clock = new Intl.DateTimeFormat(language, { timeStyle: "medium" });
const nearby = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (isNaN(at)) continue;
    const short = at.toDateString() === today ? clock : nearby; // the title has the rest
    time.textContent = ("short" in time.dataset ? short : calendar).format(at);
  }
}

function sayZone() {
  for (const place of document.querySelectorAll("[data-zone]")) {
    place.textContent = document.body.dataset.zoneText.replace("{zone}", zone);
  }
  for (const place of document.querySelectorAll("[data-zone-name]")) place.textContent = zone;
}

// Times in a filter: the server reads and writes UTC, the reader sees the own zone.
function pad(number) {
  return String(number).padStart(2, "0");
}

function filterTimes(form) {
  const inputs = [...form.querySelectorAll("input[type=datetime-local]")];
  for (const input of inputs) {
    if (!input.value) continue;
    const at = new Date(input.value + "Z");
    input.value =
      `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T` +
      `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  }
  form.addEventListener("formdata", (event) => {
    for (const { name, value } of inputs) {
      if (value) event.formData.set(name, new Date(value).toISOString().slice(0, 19));
    }
    for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
  });
}

// A sign-in link carries its code in the fragment, which no server sees until it is posted here.
function signInByLink() {
  const form = document.getElementById("sign-in");
  if (!form || location.hash.length < 20) return;
  form.elements.secret.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  form.requestSubmit();
}

// Parts marked data-live are fetched again when the daemon says that something happened, at most every two seconds.
// Where the page says so (data-changes), only the rows that changed are.
const live = {
  source: null,
  timer: null,
  busy: false,
  again: false,
  raw: new Map(),
  paused: false,
  changed: new Set(),
  left: new Set(),
};
const PAUSE_MS = 2000;

function keepUp() {
  const address = document.body.dataset.stream;
  if (!address || !window.EventSource || live.paused) return;
  live.source = new EventSource(address);
  if (document.body.dataset.changes) {
    for (const kind of ["delivery.accepted", "delivery.attempted"]) live.source.addEventListener(kind, changed);
    live.source.addEventListener("reset", everyRow);
    return;
  }
  live.source.addEventListener("open", soon); // what happened since the page was made, or while the stream was away
  for (const kind of ["delivery.accepted", "delivery.attempted", "reset"]) live.source.addEventListener(kind, soon);
}

function changed(event) {
  const row = `row-${JSON.parse(event.data).endpoint_id}`;
  if (document.getElementById(row)) live.changed.add(row);
  soon();
}

function everyRow() {
  for (const row of document.querySelectorAll("tr[data-live]")) live.changed.add(row.id);
  soon();
}

function whatChanged() {
  const only = new URL(document.body.dataset.changes, location.href);
  only.searchParams.set("only", [...live.changed].map((row) => row.replace("row-", "")).join(","));
  live.changed.clear();
  return only;
}

// A click, a drag or a selection needs what it began on: nothing is exchanged until the button is let go.
let pressed = false;
addEventListener("pointerdown", (event) => (pressed = Boolean(event.target.closest?.("[data-live]"))), true);
for (const kind of ["pointermove", "pointerup", "pointercancel"]) {
  addEventListener(kind, (event) => (pressed &&= event.buttons > 0), true);
}

async function until(condition) {
  while (!condition()) await new Promise((go) => setTimeout(go, 50));
}

function soon() {
  if (live.timer) {
    live.again = true;
    return;
  }
  live.again = false;
  refresh();
  live.timer = setTimeout(() => {
    live.timer = null;
    if (live.again) soon();
  }, PAUSE_MS);
}

async function refresh() {
  if (document.hidden) return;
  if (live.busy) {
    live.again = true; // what is under way was asked before this happened
    return;
  }
  live.busy = true;
  try {
    const from = document.body.dataset.changes ? whatChanged() : location.href;
    const answer = await fetch(from, { credentials: "same-origin", redirect: "error" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    await until(() => !pressed);
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (next && !live.paused) exchange(part, next);
    }
  } catch {
    // The daemon restarts, or the session ended: the stream comes back by itself, or the next click asks to sign in.
  } finally {
    live.busy = false;
    if (live.changed.size || live.again) soon();
  }
}

// Somebody chooses from it, or copies.
function isUsed(part) {
  const copied = getSelection()?.toString() && part.contains(getSelection().anchorNode);
  return copied || part.querySelector("details.menu[open]");
}

// What was left as it is while it was used.
function catchUp() {
  if (!live.left.size) return;
  for (const id of live.left) if (id.startsWith("row-")) live.changed.add(id);
  live.left.clear();
  soon();
}

function exchange(part, next) {
  const raw = next.innerHTML;
  if (live.raw.get(part.id) === raw) return;
  if (isUsed(part)) {
    live.left.add(part.id);
    return;
  }
  if ("still" in part.dataset && window.keepStill?.(part, next)) return;
  live.raw.set(part.id, raw);
  const focused = part.contains(document.activeElement) ? pathTo(document.activeElement) : "";
  for (const open of part.querySelectorAll("details[id]")) {
    const same = next.querySelector(`#${CSS.escape(open.id)}`);
    if (same) same.open = open.open;
  }
  localTimes(next);
  part.className = next.className;
  part.replaceChildren(...next.childNodes);
  if (focused) part.querySelector(focused)?.focus({ preventScroll: true });
  part.dispatchEvent(new CustomEvent("exchanged", { bubbles: true }));
}

function pathTo(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  if (element.dataset.since) return `a[data-since="${element.dataset.since}"]`; // a bar: of the last the end moves on
  const href = element.getAttribute("href");
  if (href) return `a[href="${CSS.escape(href)}"]`;
  const own = element.getAttribute("formaction");
  if (own) return `button[formaction="${CSS.escape(own)}"]`;
  const action = element.form?.getAttribute("action");
  return action ? `form[action="${CSS.escape(action)}"] button` : "";
}

function liveSwitch() {
  const place = document.querySelector("[data-live-switch]");
  if (!place || !window.EventSource || !document.body.dataset.stream) return;
  const state = document.createElement("span");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  const show = () => {
    state.textContent = live.paused ? place.dataset.off : place.dataset.on;
    button.textContent = live.paused ? place.dataset.resume : place.dataset.pause;
    place.classList.toggle("paused", live.paused);
  };
  button.addEventListener("click", () => {
    live.paused = !live.paused;
    live.source?.close();
    show();
    if (!live.paused) {
      keepUp();
      refresh();
    }
  });
  show();
  place.append(state, button);
  place.hidden = false;
}

function smallThings() {
  for (const form of document.querySelectorAll("[data-send-on-change]")) {
    form.addEventListener("change", () => form.requestSubmit());
  }
  for (const part of document.querySelectorAll("[data-only-without-script]")) part.hidden = true;
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = button.dataset.copied;
    });
  }
  const every = document.querySelector("[data-every-type]");
  if (every) {
    const others = document.querySelectorAll("[data-types] .choice input");
    const follow = () => others.forEach((each) => (each.disabled = every.checked));
    every.addEventListener("change", follow);
    follow();
  }
  const address = new URL(location.href);
  if (address.searchParams.has("said")) {
    address.searchParams.delete("said");
    address.searchParams.delete("n");
    history.replaceState(null, "", address);
  }
}

function menus() {
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const menu = document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

signInByLink();
addEventListener("hashchange", signInByLink);
localTimes(document);
sayZone();
document.querySelectorAll("form[data-times]").forEach(filterTimes);
smallThings();
menus();
liveSwitch();
keepUp();
document.addEventListener("toggle", catchUp, true);
document.addEventListener("selectionchange", catchUp);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && live.source) soon();
});
