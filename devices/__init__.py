"""One file, one device: docstring with the specification, constants, state, device."""
