"""How good the masks are: the two published protocols and what is measured beside them."""
