// The event log's page works without this file. With it rows are kept up to date where they stand, and new ones wait
// behind a button. It uses what `page.js` declares; the histogram is `chart.js`'s.
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
    await until(() => !live.busy);
    await refresh();
    still.shows = false;
    button.hidden = true;
    if (document.getElementById("log").getBoundingClientRect().top < 0) scrollTo({ top: 0 });
  });
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
today();
