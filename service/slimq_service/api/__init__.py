"""Paths of the service: dispatch, errors and the OpenAPI document."""
