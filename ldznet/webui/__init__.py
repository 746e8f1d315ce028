"""The extension in the webui: session, panel, runs of img2img, and API."""
