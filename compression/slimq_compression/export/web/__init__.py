"""The target `web`: a static page on which the variant plays, with ONNX Runtime Web."""
