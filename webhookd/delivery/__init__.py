"""What is carried: events in, and each on its way to its endpoints, in order."""
