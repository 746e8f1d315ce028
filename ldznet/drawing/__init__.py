"""Pictures of masks: overlays, colour maps, legends."""
