"""Several workers in one service: starts, monitors, restarts and stops them."""
