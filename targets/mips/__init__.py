"""MIPS, 32 and 64 bits, both byte orders."""
