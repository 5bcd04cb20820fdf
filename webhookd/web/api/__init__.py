"""The HTTP API: one module per resource, their schemas and the OpenAPI document."""
