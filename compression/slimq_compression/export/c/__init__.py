"""The target `c`: a C99 header and source for devices without an operating system."""
