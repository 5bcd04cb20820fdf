// BullMQ with Redis and undici: `node bullmq_rival.mjs worker`, or `node bullmq_rival.mjs singly|bulk URL FIRST COUNT`.
// Its stock concurrency is 1; it gets one job at a time for each endpoint.
import { createHmac } from "node:crypto";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { Agent, request } from "undici";
import { ENDPOINTS, events, inTurns, told } from "./events.mjs";

const KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".slice(6);
const SECRET = Buffer.from(KEY, "base64");
const connection = new Redis(process.env.RIVAL_REDIS, { maxRetriesPerRequest: null });
const [what, base, first, count] = process.argv.slice(2);

function headers(id, body) {
  const stamp = String(Math.floor(Date.now() / 1000));
  return {
    "content-type": "application/json",
    "webhook-id": id,
    "webhook-timestamp": stamp,
    "webhook-signature": "v1," + createHmac("sha256", SECRET).update(`${id}.${stamp}.`).update(body).digest("base64"),
    "x-webhook-signature": createHmac("sha256", KEY).update(body).digest("base64"),
    "x-webhook-attempt": "1",
  };
}

if (what === "worker") {
  const dispatcher = new Agent();
  new Worker(
    "rival",
    async (job) => {
      const { url, id, body } = job.data;
      const answer = await request(url, { method: "POST", body, headers: headers(id, body), dispatcher });
      await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(`answered ${answer.statusCode}`);
    },
    { connection, concurrency: ENDPOINTS },
  );
} else {
  const queue = new Queue("rival", { connection });
  const job = ({ endpoint, id, body }) => ({ name: "post", data: { url: `${base}/hook/${endpoint}`, id, body } });
  await queue.waitUntilReady();
  await told(() =>
    inTurns(events(Number(first), Number(count)), (some) =>
      what === "bulk"
        ? queue.addBulk(some.map(job))
        : Promise.all(some.map(job).map(({ name, data }) => queue.add(name, data))),
    ),
  );
  await queue.close();
  connection.disconnect();
}
