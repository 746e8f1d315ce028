"""From probability to mask and objects."""
