"""RISC-V, 32 and 64 bits: the `virt` board of QEMU, by address."""
