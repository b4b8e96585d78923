"""Code shared by every program: observations, manifests, repository, ONNX policies, errors."""
