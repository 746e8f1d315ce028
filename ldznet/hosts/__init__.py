"""Access to a Stable Diffusion model: from a checkpoint file, or from a webui that has loaded it."""
