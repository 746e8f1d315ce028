"""What happens within a run of img2img."""
