"""Templates of the files next to the sources: the self-test and the Makefile."""
