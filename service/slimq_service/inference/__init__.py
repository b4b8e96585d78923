"""Running models: inline, batched, in threads, in the shadow."""
