// BullMQ with Redis and undici: `node bullmq_rival.mjs worker`, or `node bullmq_rival.mjs produce URL COUNT BODY_BYTES`.
// Its stock concurrency is 1, which would be slower than webhookd by far; it gets one per endpoint.
import { Queue, Worker } from "bullmq";
import { Agent, request } from "undici";

const { hostname, port } = new URL(process.env.RIVAL_REDIS);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const [what, base, count, size] = process.argv.slice(2);

if (what === "worker") {
  const dispatcher = new Agent({ connections: 100 });
  new Worker(
    "rival",
    async (job) => {
      const headers = { "content-type": "application/json" };
      const answer = await request(job.data.url, { method: "POST", body: job.data.body, headers, dispatcher });
      await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(`answered ${answer.statusCode}`);
    },
    { connection, concurrency: 100 },
  );
} else {
  const queue = new Queue("rival", { connection });
  const body = "x".repeat(Number(size));
  for (let first = 0; first < Number(count); first += 100) {
    const jobs = [];
    for (let number = first; number < Math.min(first + 100, Number(count)); number++) {
      jobs.push(queue.add("post", { url: `${base}/hook/${number % 100}`, body }));
    }
    await Promise.all(jobs);
  }
  await queue.close();
}
