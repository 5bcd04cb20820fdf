// Send events from Node.js 18 or newer, with nothing beside it.
//
//   WEBHOOKD_INGEST_TOKEN=… node send.mjs
//
// Once `send` is done, the event is durable.  It goes on trying while webhookd can't be reached or can't take it now,
// with the same event_id, so that it is delivered once.  For very many events put up to 1,000 of them in one array.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const url = (process.env.WEBHOOKD_URL ?? "http://127.0.0.1:8780") + "/v1/events";
const later = [408, 429, 500, 503, 507];

export async function send(eventType, payload = {}, { eventId = randomUUID(), giveUpAfterSeconds = 600 } = {}) {
  const body = JSON.stringify({ event_type: eventType, event_id: eventId, ...payload });
  const token = process.env.WEBHOOKD_INGEST_TOKEN;
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const deadline = Date.now() + giveUpAfterSeconds * 1000;
  for (;;) {
    let waitSeconds = 1, problem;
    try {
      const answer = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(30_000) });
      if (answer.ok) return await answer.json();
      problem = new Error(`${answer.status}: ${await answer.text()}`);
      problem.final = !later.includes(answer.status);
      waitSeconds = Number(answer.headers.get("retry-after") ?? 1);
    } catch (error) {
      problem = error; // refused, reset, timed out: it may restart just now
    }
    if (problem.final || Date.now() + waitSeconds * 1000 > deadline) throw problem;
    await sleep(waitSeconds * 1000);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  console.log(await send("message.received", { text: "hello from Node" }));
}
