"""Several workers in one service: started, given connections, watched, replaced, ended together."""
