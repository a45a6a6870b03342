"""SPARC on the small board."""
