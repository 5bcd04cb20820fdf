"""aiohttp's server made fit: listener, memory limit, guard, requests and responses."""
