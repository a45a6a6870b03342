"""How fast: the same Linux guest on emu and on QEMU, measured the same way. `python -m benchmarks` prints the table.

    serial.py     a guest's console as something to send lines to and expect patterns from
    qmp.py        the QEMU Machine Protocol, for whoever speaks it
    contender.py  what is measured: the Contender protocol, the guest it runs
    emu.py        emu as a contender
    qemu.py       QEMU as a contender
    measure.py    the measurements, each a function of an entrant that returns a sample
    random_io.c   what reads and writes a disk at random places in the guest
    table.py      the table
    work.py       each of Debian's architectures at work, beside QEMU
    restore.py    emu alone: from a snapshot to the guest's first instruction, and what an idle guest costs the host
    switchover.py emu alone: letting a large qcow2 disk go and taking it

The rules. One vCPU, one TCG thread, 256 MiB, Debian's kernel (riscv64's, but for work.py) and the initramfs of images/linux.py,
no network, no display. Every sample starts fresh processes, so none inherits another's warm caches, and the contenders take
turns. The median sample is shown whole: its parts belong together. Times are the host's monotonic clock, except a migration's,
which the source tells as QEMU defines them (query-migrate: total-time from the command to completion, downtime from the order
to stop the guest to its start at the destination; QEMU's ends already when the last byte is sent). The downtime limit is QEMU's
default of 300 ms. The guest is asked after each sample whether it is alive; how many migrations and loads it survived is shown
in the table. What is compared must have been measured on the same machine with nothing else running.

Needs Debian's qemu-system-misc (QEMU; for work.py qemu-system-arm and qemu-system-x86 too), qemu-utils (qemu-img),
gcc-riscv64-linux-gnu (random_io.c) and what images/linux.py needs.
"""
