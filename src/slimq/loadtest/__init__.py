"""Load tests: compares variants of a service under the same load, with significance tests."""
