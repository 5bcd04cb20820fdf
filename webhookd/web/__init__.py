"""The HTTP side: server, API and page."""
