"""Files that are the same for every policy but for the prefix of names."""
