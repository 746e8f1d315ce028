"""The model that Forge or Forge Neo has loaded."""
