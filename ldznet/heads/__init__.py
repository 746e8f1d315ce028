"""Segmentation heads: networks, weight files, conversion."""
