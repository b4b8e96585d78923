"""Control loops over WebSocket."""
