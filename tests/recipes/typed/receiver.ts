// A receiver on express, typed by what openapi-typescript made of webhookd's document (webhookd.d.ts).
// POST /raw verifies X-Webhook-Signature over the bytes that came, POST /parsed over JSON.stringify of the parsed body;
// `?key=NAME` says which of several keys signs.  GET /taken has the ids that it took, by path and key.
import { createHmac, timingSafeEqual } from "node:crypto";
import express, { type Request, type Response } from "express";
import type { components } from "./webhookd.js";

type WebhookEvent = components["schemas"]["WebhookEvent"];
type Content = components["schemas"]["MessageReceived"]["message"]["message"];

const keys: Record<string, string> = JSON.parse(process.env.WEBHOOK_KEYS ?? "{}");
const taken: Record<string, string[]> = {};

function signed(text: string | Buffer, request: Request): boolean {
  const key = keys[String(request.query.key ?? "")];
  const given = Buffer.from(request.get("x-webhook-signature") ?? "");
  if (key === undefined) return false;
  const expected = Buffer.from(createHmac("sha256", key).update(text).digest("base64"));
  return given.length === expected.length && timingSafeEqual(given, expected);
}

// What it is about, in one line: each type has its own fields, and the compiler knows them.
function line(event: WebhookEvent): string {
  switch (event.event_type) {
    case "message.received":
      return `${event.contact.firstName ?? "?"}: ${content(event.message.message)}`;
    case "message.sent":
      return `${event.sender?.source ?? "?"} to ${event.contact.id}: ${event.message.status?.at(-1)?.value ?? "?"}`;
    case "conversation.closed":
      return `closed by ${event.conversation.closedBySource}, ${event.conversation.resolutionTime ?? 0} s`;
    case "conversation.opened":
      return `opened by ${event.conversation.source}`;
    case "contact.tag.updated":
      return `${event.action} ${event.tag}: ${(event.contact.tags ?? []).join()}`;
    case "contact.lifecycle.updated":
      return typeof event.lifecycle === "string" ? event.lifecycle : `stage ${event.lifecycle?.id ?? "none"}`;
    case "contact.updated":
      return (event.fields ?? []).join();
    case "call.ended":
      return `${event.call.direction}, ${event.call.transcript?.length ?? 0} lines`;
    case "comment.created":
      return event.text;
    case "contact.assignee.updated":
      return event.contact.assignee?.email ?? "nobody";
    case "contact.created":
      return (event.contact.custom_fields ?? []).map(({ name, value }) => `${name}=${value}`).join();
    default:
      return event satisfies never;
  }
}

function content(of: Content): string {
  switch (of.type) {
    case "text":
    case "email":
      return of.text;
    case "attachment":
      return `${of.attachment.type} ${of.attachment.fileName ?? of.attachment.url}`;
    case "location":
      return `${of.latitude}, ${of.longitude}`;
    case "story_reply":
    case "post":
      return of.url ?? of.text ?? "";
    case "whatsapp_interactive":
    case "whatsapp_order":
    case "unsupported":
      return of.type;
    default:
      return of satisfies never;
  }
}

function take(request: Request, response: Response, text: string | Buffer, event: WebhookEvent): void {
  if (!signed(text, request)) {
    response.sendStatus(401);
    return;
  }
  console.log(line(event));
  (taken[`${request.path}?${request.query.key ?? ""}`] ??= []).push(event.event_id);
  response.sendStatus(200);
}

const app = express();
app.post("/raw", express.raw({ type: "application/json", limit: "1mb" }), (request: Request, response: Response) => {
  const body = request.body as Buffer;
  take(request, response, body, JSON.parse(body.toString("utf8")) as WebhookEvent);
});
app.post("/parsed", express.json({ limit: "1mb" }), (request: Request, response: Response) => {
  take(request, response, JSON.stringify(request.body), request.body as WebhookEvent);
});
app.get("/taken", (_request: Request, response: Response) => {
  response.json(taken);
});
app.listen(Number(process.env.PORT), "127.0.0.1");
