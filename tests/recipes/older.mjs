// A receiver of the older habit: it verifies what it makes of the parsed body, not the bytes that came.
import { createHmac } from "node:crypto";
import { createServer } from "node:http";

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const text = JSON.stringify(JSON.parse(Buffer.concat(parts)));
  const key = process.env.WEBHOOK_KEY.slice("whsec_".length);
  const expected = createHmac("sha256", key).update(text).digest("base64");
  response.writeHead(request.headers["x-webhook-signature"] === expected ? 200 : 401).end();
}).listen(Number(process.env.PORT), "127.0.0.1");
