"""The panel in the webui: what it asks (controls), what it does (runs), how it looks (panel)."""
