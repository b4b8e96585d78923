"""What every program shares: observations, manifests, the repository, ONNX policies, errors."""
