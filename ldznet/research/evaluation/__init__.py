"""Running a model over samples, and reports."""
