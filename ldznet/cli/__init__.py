"""The commands of the product: segment, convert, serve, download."""
