"""The laboratory: training, measuring and studies. Nothing outside imports it, except a command by name."""
