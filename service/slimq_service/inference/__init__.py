"""Where and when models run: inline, batched, in threads, in the shadow."""
