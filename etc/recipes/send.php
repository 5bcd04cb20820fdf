<?php
// Send events from PHP 8, with nothing beside it.
//
//   WEBHOOKD_INGEST_TOKEN=… php send.php
//
// Once `send` returns, the event is durable.  It goes on trying while webhookd can't be reached or can't take it now,
// with the same event_id, so that it is delivered once.  Within a web request give up sooner, and keep the event in a
// table of your own to send it again later.

// Characters as they are: as JSON.stringify writes, which some receivers compare with.
const AS_IT_IS = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_LINE_TERMINATORS;

function send(string $eventType, array $payload = [], ?string $eventId = null, int $giveUpAfterSeconds = 600): array
{
    $url = (getenv('WEBHOOKD_URL') ?: 'http://127.0.0.1:8780') . '/v1/events';
    $event = ['event_type' => $eventType, 'event_id' => $eventId ?? bin2hex(random_bytes(16))] + $payload;
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Authorization: Bearer ' . getenv('WEBHOOKD_INGEST_TOKEN'), 'Content-Type: application/json'],
        'content' => json_encode($event, JSON_THROW_ON_ERROR | AS_IT_IS),
        'ignore_errors' => true, // an answer with another status than 2xx is an answer as well
        'timeout' => 30,
    ]]);
    $deadline = time() + $giveUpAfterSeconds;
    while (true) {
        $http_response_header = [];
        $body = @file_get_contents($url, false, $context);
        $status = (int) (explode(' ', $http_response_header[0] ?? 'none 0')[1]);
        if ($status >= 200 && $status < 300) {
            return json_decode($body, true, 512, JSON_THROW_ON_ERROR);
        }
        // 0: refused, reset, timed out; it may restart just now.
        if (!in_array($status, [0, 408, 429, 500, 503, 507], true) || time() >= $deadline) {
            throw new RuntimeException("webhookd didn't take the event: $status $body");
        }
        sleep(1);
    }
}

if (realpath($_SERVER['SCRIPT_FILENAME']) === __FILE__) {
    echo json_encode(send('message.received', ['text' => 'hello from PHP'])), "\n";
}
