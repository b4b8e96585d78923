"""Helpers for quantizing graphs: ranges, levels, and QDQ nodes."""
