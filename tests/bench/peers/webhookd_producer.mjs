// A producer of webhookd's: `node webhookd_producer.mjs singly|bulk URL FIRST COUNT`.
import { Agent, request } from "undici";
import { events, inTurns, told } from "./events.mjs";

const [what, base, first, count] = process.argv.slice(2);
const dispatcher = new Agent();
const headers = { authorization: `Bearer ${process.env.WEBHOOKD_TOKEN}`, "content-type": "application/json" };

async function post(body) {
  const answer = await request(base + "/v1/events", { method: "POST", body, headers, dispatcher });
  await answer.body.text();
  if (answer.statusCode !== 202) throw new Error(`answered ${answer.statusCode}`);
}

await told(() =>
  inTurns(events(Number(first), Number(count)), (some) =>
    what === "bulk"
      ? post(`[${some.map(({ body }) => body).join(",")}]`)
      : Promise.all(some.map(({ body }) => post(body))),
  ),
);
await dispatcher.close();
