"""The commands of `python -m ldznet`; each adds its parser and runs from parsed arguments to an exit code."""
