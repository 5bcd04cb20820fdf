"""Several machines that share the work, over NATS JetStream.  Imported only where `[cluster]` is configured."""
