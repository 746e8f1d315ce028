"""The components of the webui's own page."""
