"""A checkpoint from disk, as one file or as a folder in diffusers' layout, run in plain torch."""
