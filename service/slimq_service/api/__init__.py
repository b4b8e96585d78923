"""The service's APIs, with their dispatch, errors and OpenAPI document."""
