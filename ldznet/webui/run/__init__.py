"""The hooks within a run of img2img."""
