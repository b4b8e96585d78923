"""The Open Inference Protocol v2 over REST, with extensions of Triton's.

A policy is a model, a variant is a version.
"""
