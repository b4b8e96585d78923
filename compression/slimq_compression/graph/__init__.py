"""The ONNX side: what graph passes, storage and the accounting have in common."""
