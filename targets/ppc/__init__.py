"""PowerPC."""
