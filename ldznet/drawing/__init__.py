"""Images of masks: overlays, colour maps, legends."""
