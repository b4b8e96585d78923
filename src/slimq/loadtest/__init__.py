"""Load tests: the variants of a service under the same load, and which differences are real."""
