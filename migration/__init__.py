"""Saving, restoring and moving a guest. A leaf: it knows no device, board, image or engine, only the protocols it declares."""
