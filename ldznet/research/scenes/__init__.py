"""Scenes of icons with phrases and masks."""
