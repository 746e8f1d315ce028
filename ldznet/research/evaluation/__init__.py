"""Measuring a model on samples, and the reports."""
