"""z/Architecture on the small board."""
