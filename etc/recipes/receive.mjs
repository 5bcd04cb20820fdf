// A receiver of webhooks in Node.js: verifies, keeps, answers 200, and only then works.
//
//   npm install standardwebhooks
//   WEBHOOK_KEY=whsec_… PORT=9000 node receive.mjs
//
// Each request is kept as the file inbox/<time>.<webhook-id> before it is answered, so that no crash of this program
// loses it, and one that comes twice is kept once.  The work is done afterwards in the order of arrival, file by file; what
// is done is moved to done/<webhook-id>.  (The id has only letters, digits, - and _, and is signed too.)

import { createServer } from "node:http";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, readdir, rename } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_KEY);
const maxBytes = 1 << 20;
let lastTime = 0;

async function take(request) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > maxBytes) return 413;
    parts.push(part);
  }
  const body = Buffer.concat(parts); // the raw bytes: what was signed is these, not what a parser makes of them
  try {
    webhook.verify(body, request.headers); // the signature, and that the time stamp is at most five minutes off
  } catch {
    return 401;
  }
  await keep(request.headers["webhook-id"], body);
  return 200;
}

// Write the event to the disk, whole or not at all, unless it was there before.
async function keep(id, body) {
  if ((await kept()).some((name) => name.endsWith(`.${id}`)) || existsSync(`done/${id}`)) return;
  const file = await open(`inbox/.${id}`, "w");
  await file.writeFile(body);
  await file.sync();
  await file.close();
  lastTime = Math.max(lastTime + 1, Date.now() * 1000);
  await rename(`inbox/.${id}`, `inbox/${lastTime}.${id}`);
}

// What is in the inbox, in the order of arrival.
async function kept() {
  return (await readdir("inbox")).filter((name) => !name.startsWith(".")).sort();
}

// Do what is to be done, in the order of arrival, for ever.
async function work() {
  for (;;) {
    const until = `${Date.now() * 1000}`; // what comes during the listing is for the next, which misses nothing before it
    for (const name of (await kept()).filter((name) => name < until)) {
      const id = name.split(".")[1];
      console.log("working on", id, await readFile(`inbox/${name}`, "utf8")); // your own work goes here
      await rename(`inbox/${name}`, `done/${id}`);
    }
    await sleep(100);
  }
}

await mkdir("inbox", { recursive: true });
await mkdir("done", { recursive: true });
createServer(async (request, response) => {
  const status = await take(request).catch(() => 500);
  response.writeHead(status).end();
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
await work();
