<?php
// Show a customer's webhooks inside a product's own settings, from PHP 8, with nothing beside it.
//
//   WEBHOOKD_ADMIN_TOKEN=… WEBHOOKD_URL=https://hooks.example.com php -S 127.0.0.1:8000 portal.php
//
// `portal_link` is what your backend needs; the rest is a page around it to try it with.

// A link that signs in once: make a fresh one each time the page is shown.
function portal_link(string $workspace, array $fields = []): string
{
    $url = getenv('WEBHOOKD_URL') ?: 'http://127.0.0.1:8780';
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Authorization: Bearer ' . getenv('WEBHOOKD_ADMIN_TOKEN'), 'Content-Type: application/json'],
        'content' => json_encode((object) $fields, JSON_THROW_ON_ERROR),
        'ignore_errors' => true, // an answer with another status than 2xx is an answer as well
        'timeout' => 10,
    ]]);
    $body = file_get_contents($url . '/v1/workspaces/' . rawurlencode($workspace) . '/portal-links', false, $context);
    $answer = json_decode((string) $body, true, 512, JSON_THROW_ON_ERROR);
    return $answer['url'] ?? throw new RuntimeException("webhookd made no link: $body");
}

// Whose webhooks: here your own sign-in decides.  Never take it from what the browser sends.
function workspace_of_reader(): string
{
    return getenv('WORKSPACE') ?: 'default';
}

if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) !== '/settings') {
    http_response_code(404);
    exit;
}
$link = htmlspecialchars(portal_link(workspace_of_reader(), ['language' => 'en']));
header('Cache-Control: no-store'); // the link works once
?>
<!doctype html><html lang="en"><title>Settings</title><h1>Settings</h1>
<iframe id="webhooks" title="Webhooks" src="<?= $link ?>" style="width: 100%; height: 640px; border: 0"></iframe>
<script>
  addEventListener("message", ({ source, data }) => {
    const frame = document.getElementById("webhooks");
    if (source === frame.contentWindow && data?.type === "webhookd:height") frame.style.height = `${data.height}px`;
  });
</script></html>
