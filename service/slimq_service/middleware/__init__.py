"""ASGI middleware: keys, the admin port, the access log, traces."""
