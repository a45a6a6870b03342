"""x86: a PC without ACPI, 64 bits (x86_64) and 32 bits (i386)."""
