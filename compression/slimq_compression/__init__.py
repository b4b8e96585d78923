"""Recipes of compression passes, and the pipeline that turns a policy into variants."""
