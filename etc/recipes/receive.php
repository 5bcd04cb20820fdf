<?php
// A receiver of webhooks in PHP: verifies, keeps, answers 200; the work is done by another process.
//
//   composer require standard-webhooks/standard-webhooks
//   WEBHOOK_KEY=whsec_… php -S 127.0.0.1:9000 receive.php     (to try it; else under your web server)
//   php receive.php                                           (does the work, once: from cron or a loop)
//
// Each request is kept as the file inbox/<webhook-id> before it is answered, so that nothing that happens later loses
// it, and one that comes twice is kept once.  What is done is moved to done/.
// (The id has only letters, digits, - and _, and is signed too.)

require getcwd() . '/vendor/autoload.php';

foreach (['inbox', 'done'] as $folder) {
    is_dir($folder) || mkdir($folder);
}

// Write the event to the disk, whole or not at all, unless it was there before.
function keep(string $id, string $body): void
{
    if (file_exists("inbox/$id") || file_exists("done/$id")) {
        return;
    }
    $file = fopen("inbox/.$id", 'wb');
    fwrite($file, $body);
    fsync($file);
    fclose($file);
    rename("inbox/.$id", "inbox/$id");
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
    $waiting = glob('inbox/*'); // which leaves out what begins with a dot
    usort($waiting, fn ($a, $b) => filemtime($a) <=> filemtime($b));
    foreach ($waiting as $path) {
        echo 'working on ', basename($path), ' ', file_get_contents($path), "\n"; // your own work goes here
        rename($path, 'done/' . basename($path));
    }
}

if (PHP_SAPI === 'cli') {
    work();
} else {
    http_response_code(take());
}
