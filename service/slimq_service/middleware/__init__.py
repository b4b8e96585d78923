"""Layers around the application: keys, the admin port, access log, traces."""
