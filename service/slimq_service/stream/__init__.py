"""The control loop over WebSocket: the server keeps the frames, each message brings the newest."""
