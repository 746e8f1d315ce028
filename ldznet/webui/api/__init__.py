"""The routes in the webui's API."""
