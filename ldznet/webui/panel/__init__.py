"""The panel in the img2img tab."""
