"""The model that AUTOMATIC1111 has loaded."""
