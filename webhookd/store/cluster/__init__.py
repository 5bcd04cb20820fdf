"""What a cluster adds to the database: where the partition's stream is applied to, and configuration from elsewhere."""
