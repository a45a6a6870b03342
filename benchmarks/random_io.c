/* A riscv64 Linux program without a library: one request of 4 KiB after the other at random places of a disk, past the page cache.
 *
 *     random-io r|w DEVICE MIB COUNT      MIB of the device are used; the places are the same in every run
 */
typedef unsigned long word;

enum { OPENAT = 56, PREAD = 67, PWRITE = 68, EXIT = 94 };
enum { AT_FDCWD = -100, O_RDWR = 2, O_DIRECT = 040000, REQUEST = 4096, PER_MIB = 256, FAILED = 2 };

__asm__(".globl _start\n_start: mv a0, sp\n    j begin");

static char buffer[REQUEST] __attribute__((aligned(REQUEST)));

static word call(word number, word a, word b, word c, word d)
{
    register word a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a3 __asm__("a3") = d;
    register word a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a7) : "memory");
    return a0;
}

static word number(const char *text)
{
    word value = 0;
    while (*text)
        value = value * 10 + (*text++ - '0');
    return value;
}

void begin(word *stack)
{
    char **arguments = (char **)(stack + 1);
    word places = number(arguments[3]) * PER_MIB, count = number(arguments[4]), seed = 88172645463325252ul;
    word request = arguments[1][0] == 'w' ? PWRITE : PREAD;
    word fd = call(OPENAT, AT_FDCWD, (word)arguments[2], O_RDWR | O_DIRECT, 0);
    while (count--) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; /* Marsaglia's xorshift64 */
        if (call(request, fd, (word)buffer, REQUEST, seed % places * REQUEST) != REQUEST)
            call(EXIT, FAILED, 0, 0, 0);
    }
    call(EXIT, 0, 0, 0, 0);
}
