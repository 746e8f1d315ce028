"""A checkpoint from disk, run by diffusers."""
