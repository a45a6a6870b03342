"""qcow2 images, as QEMU specifies them (docs/interop/qcow2.txt), read and written in place."""
