"""The pipeline: ingest, one queue and consumer per endpoint, recording, held events, replay, the watchdog."""
