"""Measure a model on samples, and write reports."""
