"""The model that reForge has loaded."""
