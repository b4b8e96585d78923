"""Videos of episodes, several variants side by side."""
