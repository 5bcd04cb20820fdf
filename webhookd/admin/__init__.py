"""What people change: endpoints, workspaces, tokens and sessions."""
