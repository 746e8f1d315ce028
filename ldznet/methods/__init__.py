"""How a probability map is made; all methods share one small interface."""
