"""Streams of earlier versions of this program, which every later one must take in: tests/live/test_golden.py."""
