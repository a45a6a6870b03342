"""Disk images and who owns them. A leaf."""
