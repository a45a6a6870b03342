"""ARM, 64 and 32 bits: one board, two CPUs."""
