"""One HTTP attempt: the client, its connection, the egress gates and why an attempt failed."""
