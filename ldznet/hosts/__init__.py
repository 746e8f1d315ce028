"""Where the Stable Diffusion model comes from: a checkpoint file, or a webui that has loaded it."""
