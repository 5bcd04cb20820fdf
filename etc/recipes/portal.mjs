// Show a customer's webhooks inside a product's own settings, from Node.js 18 or newer, with nothing beside it.
//
//   WEBHOOKD_ADMIN_TOKEN=… WEBHOOKD_URL=https://hooks.example.com node portal.mjs
//
// `portalLink` is what your backend needs; the rest is a page around it to try it with.

import { createServer } from "node:http";

const url = process.env.WEBHOOKD_URL ?? "http://127.0.0.1:8780";
const page = (link) => `<!doctype html><html lang="en"><title>Settings</title><h1>Settings</h1>
<iframe id="webhooks" title="Webhooks" src="${link}" style="width: 100%; height: 640px; border: 0"></iframe>
<script>
  addEventListener("message", ({ source, data }) => {
    const frame = document.getElementById("webhooks");
    if (source === frame.contentWindow && data?.type === "webhookd:height") frame.style.height = data.height + "px";
  });
</script></html>`;

// A link that signs in once: make a fresh one each time the page is shown.
export async function portalLink(workspace, fields = {}) {
  const answer = await fetch(`${url}/v1/workspaces/${encodeURIComponent(workspace)}/portal-links`, {
    method: "POST",
    headers: { Authorization: `Bearer ${process.env.WEBHOOKD_ADMIN_TOKEN}`, "Content-Type": "application/json" },
    body: JSON.stringify(fields),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return (await answer.json()).url;
}

// Whose webhooks: here your own sign-in decides.  Never take it from what the browser sends.
function workspaceOf(request) {
  return process.env.WORKSPACE ?? "default";
}

createServer(async (request, response) => {
  if (request.url !== "/settings") return response.writeHead(404).end();
  try {
    const link = await portalLink(workspaceOf(request), { language: "en" });
    const headers = { "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store" }; // the link works once
    response.writeHead(200, headers).end(page(link));
  } catch (error) {
    console.error(error);
    response.writeHead(502).end();
  }
}).listen(Number(process.env.PORT ?? 8000), "127.0.0.1");
