"""TriCore on the small board."""
