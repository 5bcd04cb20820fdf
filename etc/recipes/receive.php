<?php
// A receiver of webhooks in PHP: verifies, keeps, answers 200; the work is done by another process.
//
//   composer require standard-webhooks/standard-webhooks
//   WEBHOOK_KEY=whsec_… php -S 127.0.0.1:9000 receive.php     (to try it; else under your web server)
//   php receive.php                                           (does the work, once: from cron or a loop)
//
// Each request is kept as the file inbox/<time>.<webhook-id> before it is answered, so that nothing that happens later
// loses it, and one that comes twice is kept once.  What is done is moved to done/<webhook-id>.
// (The id has only letters, digits, - and _, and is signed too.)

require getcwd() . '/vendor/autoload.php';

foreach (['inbox', 'done'] as $folder) {
    is_dir($folder) || mkdir($folder);
}

// The time in microseconds, always with 16 digits: texts of it are in the order of time.
function now(): string
{
    return sprintf('%016d', microtime(true) * 1e6);
}

// Write the event to the disk, whole or not at all, unless it was there before.
function keep(string $id, string $body): void
{
    if (glob("inbox/[0-9]*.$id") || file_exists("done/$id")) {
        return;
    }
    $file = fopen("inbox/.$id", 'wb');
    fwrite($file, $body);
    fsync($file);
    fclose($file);
    rename("inbox/.$id", 'inbox/' . now() . ".$id");
}

function take(): int
{
    $body = file_get_contents('php://input'); // the raw bytes: what was signed is these, not what a parser makes of them
    $headers = array_change_key_case(getallheaders());
    try {
        // Checks the signature, and that the time stamp is no more than five minutes off.
        (new StandardWebhooks\Webhook(getenv('WEBHOOK_KEY')))->verify($body, $headers);
    } catch (StandardWebhooks\Exception\WebhookVerificationException) {
        return 401;
    }
    keep($headers['webhook-id'], $body);
    return 200;
}

// Do what is to be done, in the order of arrival.
function work(): void
{
    $until = 'inbox/' . now(); // what comes during the listing is for the next one, which misses nothing before it
    foreach (glob('inbox/[0-9]*') as $path) { // in the order of their names, so of their times
        if ($path < $until) {
            $id = explode('.', $path)[1];
            echo "working on $id ", file_get_contents($path), "\n"; // your own work goes here
            rename($path, "done/$id");
        }
    }
}

if (PHP_SAPI === 'cli') {
    work();
} else {
    http_response_code(take());
}
