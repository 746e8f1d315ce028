"""Reading images and turning them into tensors."""
