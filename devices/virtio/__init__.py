"""Virtio 1.2: queues and devices that know no transport, and the transports that carry them."""
