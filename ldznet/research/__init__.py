"""The laboratory: training, measuring, studying. Nothing of the product imports it."""
