// The event log's page works without this file. With it: dragging over the histogram filters by time, rows are kept up to
// date where they stand, and new ones wait behind a button. It uses what `page.js` declares.
"use strict";

// Rows that are there change in place; new ones would push what is being read away, so a button says how many there are.
const still = { shows: false };

window.keepStill = (part, next) => {
  const rows = document.querySelectorAll("#log tbody tr");
  if (still.shows || !rows.length) return false;
  if (part.id !== "log") return true; // the links to older rows go with the rows that are shown
  const fresh = new Map([...next.querySelectorAll("tbody tr")].map((row) => [row.id, row]));
  const known = new Set([...rows].map((row) => row.id));
  const last = [...fresh.keys()].pop() ?? "";
  for (const row of rows) {
    const now = fresh.get(row.id);
    row.classList.toggle("left", !now && row.id >= last); // its state is no longer the one that is searched for
    if (now && !row.contains(document.activeElement)) update(row, now);
  }
  const added = [...fresh.keys()].filter((id) => !known.has(id)).length;
  const button = document.getElementById("new-rows");
  button.textContent = button.dataset.text.replace("{n}", added < fresh.size ? added : `${added}+`);
  button.hidden = !added;
  return true;
};

function update(row, now) {
  const raw = now.innerHTML;
  if (live.raw.get(row.id) === raw) return;
  live.raw.set(row.id, raw);
  localTimes(now);
  row.replaceChildren(...now.childNodes);
}

function newRows() {
  const button = document.getElementById("new-rows");
  button?.addEventListener("click", async () => {
    still.shows = true;
    await refresh();
    still.shows = false;
    button.hidden = true;
    if (document.getElementById("log").getBoundingClientRect().top < 0) scrollTo({ top: 0 });
  });
}

// The histogram: what is under the pointer is told above it, a stretch that is dragged over becomes the filter.
const instant = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

function histogram() {
  const figure = document.querySelector("[data-histogram]");
  const picture = figure?.querySelector("svg:not([data-ready])");
  if (!picture) return;
  picture.dataset.ready = "";
  const bars = [...picture.querySelectorAll("a")];
  const readout = figure.querySelector("[data-readout]");
  const summary = readout.textContent;
  const tell = (bar) => {
    if (!bar) return (readout.textContent = summary);
    const { since, until, total, failed } = bar.dataset;
    const span = instant.formatRange(new Date(Number(since)), new Date(Number(until)));
    readout.textContent = `${span}: ${figure.dataset.text.replace("{total}", total).replace("{failed}", failed)}`;
  };
  for (const bar of bars) {
    bar.querySelector("title").remove(); // it would cover what is told, and it is in UTC
    bar.addEventListener("pointerenter", () => tell(bar));
    bar.addEventListener("pointerleave", () => tell(null));
    bar.addEventListener("focus", () => tell(bar));
    bar.addEventListener("blur", () => tell(null));
  }
  figure.querySelector("[data-with-script]").hidden = false;
  arrows(picture, bars);
  dragging(figure, picture);
}

// One stop for the Tab key; arrows go from bar to bar.
function arrows(picture, bars) {
  const choose = (chosen) => bars.forEach((bar) => bar.setAttribute("tabindex", bar === chosen ? "0" : "-1"));
  choose(bars.at(-1));
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = bars[bars.indexOf(document.activeElement) + step];
    if (!step || !next) return;
    event.preventDefault();
    choose(next);
    next.focus();
  });
}

let ended = new AbortController();

function dragging(figure, picture) {
  ended.abort(); // the picture before this one has gone
  ended = new AbortController();
  const { signal } = ended;
  const { since, until } = figure.querySelector(".scale").dataset;
  const shown = picture.querySelector(".dragged");
  const width = picture.viewBox.baseVal.width;
  let from = null;
  const place = (event) => {
    const box = picture.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const show = (begin, end) => {
    shown.setAttribute("x", begin * width);
    shown.setAttribute("width", (end - begin) * width);
  };
  picture.addEventListener("dragstart", (event) => event.preventDefault()); // a link would be dragged
  picture.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    from = place(event);
    live.paused ||= "drag"; // another picture would know nothing of it
  });
  const follow = (event) => {
    if (from === null) return;
    const to = place(event);
    show(Math.min(from, to), Math.max(from, to));
  };
  addEventListener("pointermove", follow, { signal });
  const finish = (event) => {
    if (from === null) return;
    const [begin, end] = [from, place(event)].sort((a, b) => a - b);
    from = null;
    if (live.paused === "drag") live.paused = false;
    soon(); // for what came meanwhile
    show(0, 0);
    if (end - begin < 0.005) return; // a click, which is the bar's
    picture.addEventListener("click", (click) => click.preventDefault(), { capture: true, once: true });
    const at = (part) => new Date(Number(since) + part * (until - since)).toISOString().slice(0, 19);
    const address = new URL(figure.dataset.path, location.href);
    address.searchParams.set("since", at(begin));
    address.searchParams.set("until", at(end));
    location.assign(address);
  };
  addEventListener("pointerup", finish, { signal });
}

// Today begins at the reader's own midnight.
function today() {
  const link = document.querySelector("a[data-today]:not([aria-current])");
  if (!link) return;
  const midnight = new Date(new Date().setHours(0, 0, 0, 0)).toISOString().slice(0, 19);
  const address = new URL(link.href);
  const here = new URL(location.href).searchParams;
  if (here.get("since") === midnight && !here.get("until")) link.setAttribute("aria-current", "true");
  address.searchParams.delete("span");
  address.searchParams.set("since", midnight);
  link.href = address;
}

newRows();
histogram();
today();
document.addEventListener("exchanged", histogram);
