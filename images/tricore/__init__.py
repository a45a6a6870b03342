"""A toolchain for TriCore, which Debian has none for: an assembler, and GCC's code for RISC-V as TriCore's."""
