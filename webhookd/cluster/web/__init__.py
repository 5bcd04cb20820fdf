"""What a caller sees of the cluster: one HTTP server before all partitions, wherever they are."""
