"""The Open Inference Protocol v2 over REST, with Triton's extensions.

A policy is a model, a variant is a version.
"""
