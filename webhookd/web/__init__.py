"""What is shown: the HTTP API, its OpenAPI document, the page."""
