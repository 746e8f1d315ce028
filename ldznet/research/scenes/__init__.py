"""Procedural scenes with phrases and masks."""
