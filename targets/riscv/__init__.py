"""RISC-V, 64 bits: the `virt` board of QEMU, by address."""
