"""The only package that uses undocumented parts of uvicorn.

Other modules use the names defined here. Tests of this package fail if uvicorn changes these parts;
`pyproject.toml` bounds its version.
"""
