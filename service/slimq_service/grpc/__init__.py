"""The Open Inference Protocol over gRPC, in front of the same application as HTTP.

Every call is a request of the application in `app.py`: its path is that of the same operation
under `/v2`, its headers are the call's metadata. So names, keys, limits, errors and metrics are
those of HTTP. Only infer has a codec of its own, which reads and writes Protocol Buffers.
"""
