"""HTTP shared by all endpoints: bodies, problem documents, request ids, peers."""
