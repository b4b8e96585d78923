"""A variant as a static folder: a page on which it plays, with ONNX Runtime Web."""
