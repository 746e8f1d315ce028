"""Train heads."""
