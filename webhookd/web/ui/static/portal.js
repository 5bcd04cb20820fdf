// In a product's page: tell it how high the portal is, so that its frame fits.  The page works without this file.
"use strict";

// Only the origins that the configuration names are told; a browser that says which one embeds the page spares the rest.
const named = document.body.dataset.ancestors.split(" ");
const origins = location.ancestorOrigins?.length ? named.filter((each) => each === location.ancestorOrigins[0]) : named;
let height = 0;

function report() {
  let now = document.body.getBoundingClientRect().height;
  for (const items of document.querySelectorAll("details.menu[open] .items")) {
    now = Math.max(now, items.getBoundingClientRect().bottom + scrollY + 8);
  }
  now = Math.ceil(now);
  if (now === height) return;
  height = now;
  for (const origin of origins) parent.postMessage({ type: "webhookd:height", height }, origin);
}

if (parent !== window) {
  document.documentElement.classList.add("embedded");
  new ResizeObserver(report).observe(document.body);
  document.addEventListener("toggle", report, true);
}
