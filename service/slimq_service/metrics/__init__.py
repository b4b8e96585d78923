"""Counters, gauges and histograms, and the text that Prometheus scrapes."""
