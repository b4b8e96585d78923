"""What every endpoint needs of HTTP: bodies, problem documents, request ids, peers."""
