/* Linux's system calls, by the numbers of include/uapi/asm-generic/unistd.h, or of the table of the ISA. */
#if defined(__riscv) || defined(__aarch64__)
enum { EXIT = 94, MEMFD_CREATE = 279, FTRUNCATE = 46, MMAP = 222, MUNMAP = 215 };
enum { LSEEK = 62, WRITE_FILE = 64, CLOSE = 57, CLONE = 220, WAIT4 = 260 };
#elif defined(__x86_64__)
enum { EXIT = 231, MEMFD_CREATE = 319, FTRUNCATE = 77, MMAP = 9, MUNMAP = 11 };
enum { LSEEK = 8, WRITE_FILE = 1, CLOSE = 3, CLONE = 56, WAIT4 = 61 };
#elif defined(__i386__)
enum { EXIT = 252, MEMFD_CREATE = 356, FTRUNCATE = 93, MMAP = 192, MUNMAP = 91 }; /* mmap2 */
enum { LSEEK = 19, WRITE_FILE = 4, CLOSE = 6, CLONE = 120, WAIT4 = 114 };
#elif defined(__arm__)
enum { EXIT = 248, MEMFD_CREATE = 385, FTRUNCATE = 93, MMAP = 192, MUNMAP = 91 }; /* mmap2 */
enum { LSEEK = 19, WRITE_FILE = 4, CLOSE = 6, CLONE = 120, WAIT4 = 114 };
#endif
