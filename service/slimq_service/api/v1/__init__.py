"""The native API: actions, comparisons, policies and the page."""
