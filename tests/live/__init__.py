"""Whole machines in processes of their own, as a user starts them."""
