"""The native API: actions, comparisons, policies and the overview page."""
