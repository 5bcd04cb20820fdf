#!/bin/sh
# Send one event with curl, again and again until webhookd has it.
#
#   WEBHOOKD_INGEST_TOKEN=… sh send.sh '{"event_type":"message.received","event_id":"m-1","text":"hello"}'
#
# Give the event an event_id, so that sending it twice delivers it once.  For events in a file or a pipe there is
# `webhookd send`.

while :; do
  answer=$(curl --silent --max-time 30 --write-out '\n%{http_code}' \
    --header "Authorization: Bearer $WEBHOOKD_INGEST_TOKEN" --header 'Content-Type: application/json' \
    --data-binary "$1" "${WEBHOOKD_URL:-http://127.0.0.1:8780}/v1/events")
  status=${answer##*
}
  case $status in
    2??) printf '%s\n' "$answer" | head -n 1; exit 0 ;;
    000 | 408 | 429 | 500 | 503 | 507) sleep 2 ;; # 000: no answer; the others: not now
    *) printf '%s\n' "$answer" >&2; exit 1 ;;
  esac
done
