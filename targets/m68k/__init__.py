"""Motorola 68040 on the small board."""
