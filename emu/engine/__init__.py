"""The CPU: the only place that knows Unicorn."""
