"""The one place that overrides or reads what uvicorn does not document.

Others build on the classes here, by the names that these give. Where uvicorn changes, so does this
package, and its test says that it has to; `pyproject.toml` bounds the version.
"""
