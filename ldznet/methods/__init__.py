"""The methods that make probability maps; all of them share one small interface."""
