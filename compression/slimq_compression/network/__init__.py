"""The torch side: what network passes have in common."""
