"""Metrics of masks."""
