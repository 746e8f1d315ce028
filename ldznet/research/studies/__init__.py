"""Ablations and searches."""
