/* A Linux program without a library: code that is written and run, and counts that interrupts must not spoil.
 *
 *     probe MODE ROUNDS      prints how many answers were right, or what was counted; all else is the machine's fault
 *
 * jit       one page mapped twice: code is written through one mapping and run through the other
 * self      code is written over code, at the address where it runs
 * cached    code comes into a mapped file by write(2), which is the kernel's mapping of the same page
 * recycled  each round has a file and a mapping of its own, whose page held an earlier round's code
 * forked    a child writes other code over its copy of its parent's
 * count     two processes add to one word, to twice ROUNDS, and to sums of their own
 *
 * An ISA's header has `_start`, `call`, `emit`, `sync`, `entry`, `add_one` and `sum_up`.
 */
#include "calls.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long word;

enum { PAGE = 4096, PLACES = 16, PLACE = PAGE / PLACES, FAILED = 2 };
enum { READ = 1, WRITE = 2, EXEC = 4, SHARED = 1, PRIVATE = 2, ANONYMOUS = 0x20, SIGCHLD = 17 };

static word call(word number, word a, word b, word c, word d, word e, word f);

#if defined(__riscv)
#include "riscv64.h"
#elif defined(__aarch64__)
#include "arm64.h"
#elif defined(__arm__)
#include "arm.h"
#else
#include "x86.h"
#endif

static word checked(word number, word a, word b, word c, word d, word e)
{
    word result = call(number, a, b, c, d, e, 0);
    if (result > (word)-4096)
        call(EXIT, FAILED, 0, 0, 0, 0, 0);
    return result;
}

static u8 *map(int protection, int flags, int fd)
{
    return (u8 *)checked(MMAP, 0, PAGE, protection, flags, fd);
}

static int file(void)
{
    int fd = checked(MEMFD_CREATE, (word) "code", 0, 0, 0, 0);
    checked(FTRUNCATE, fd, PAGE, 0, 0, 0);
    return fd;
}

static u32 value_of(u32 round)
{
    return round * 2654435761u; /* Knuth's: every bit of the immediates changes */
}

static u32 run(const u8 *code)
{
    return ((u32(*)(void))entry(code))();
}

/* Written through `at`, run at `code`: the new, and the place after next, which holds older code or none yet. */
static u32 rewrite(u8 *at, u8 *code, u32 rounds)
{
    u32 right = 0;
    for (u32 round = 0; round < rounds; round++) {
        u32 place = round % PLACES * PLACE, older = (round + 2) % PLACES * PLACE;
        emit(at + place, value_of(round));
        sync(at + place, code + place);
        u32 good = run(code + place) == value_of(round);
        if (round >= PLACES)
            good &= run(code + older) == value_of(round + 2 - PLACES);
        right += good;
    }
    return right;
}

static u32 jit(u32 rounds)
{
    int fd = file();
    return rewrite(map(READ | WRITE, SHARED, fd), map(READ | EXEC, SHARED, fd), rounds);
}

static u32 self(u32 rounds)
{
    u8 *page = map(READ | WRITE | EXEC, PRIVATE | ANONYMOUS, -1);
    return rewrite(page, page, rounds);
}

static void write_file(int fd, u32 value)
{
    u32 code[4];
    emit((u8 *)code, value);
    checked(LSEEK, fd, 0, 0, 0, 0);
    checked(WRITE_FILE, fd, (word)code, sizeof code, 0, 0);
}

static u32 cached(u32 rounds)
{
    int fd = file();
    u8 *code = map(READ | EXEC, SHARED, fd);
    u32 right = 0;
    for (u32 round = 0; round < rounds; round++) {
        write_file(fd, value_of(round));
        sync(code, code);
        right += run(code) == value_of(round);
    }
    return right;
}

static u32 recycled(u32 rounds)
{
    u32 right = 0;
    for (u32 round = 0; round < rounds; round++) {
        int fd = file();
        write_file(fd, value_of(round));
        u8 *code = map(READ | EXEC, SHARED, fd);
        sync(code, code);
        right += run(code) == value_of(round);
        checked(MUNMAP, (word)code, PAGE, 0, 0, 0);
        checked(CLOSE, fd, 0, 0, 0, 0);
    }
    return right;
}

static word fork(void)
{
    return checked(CLONE, SIGCHLD, 0, 0, 0, 0);
}

static u32 exit_status(void)
{
    u32 status = 0;
    checked(WAIT4, -1, (word)&status, 0, 0, 0);
    return status;
}

static u32 forked(u32 rounds)
{
    u8 *page = map(READ | WRITE | EXEC, PRIVATE | ANONYMOUS, -1);
    u32 right = 0;
    for (u32 round = 0; round < rounds; round++) {
        emit(page, value_of(round));
        sync(page, page);
        u32 good = run(page) == value_of(round);
        if (!fork()) {
            emit(page, ~value_of(round));
            sync(page, page);
            call(EXIT, run(page) != ~value_of(round), 0, 0, 0, 0, 0);
        }
        right += good & !exit_status() & (run(page) == value_of(round));
    }
    return right;
}

/* ROUNDS even: of the numbers below it half are odd, and their sum is the square of that. */
static u32 add_up(volatile u32 *counter, u32 rounds)
{
    u32 odd = 0, even = 0, odds = 0, evens = 0, half = rounds / 2;
    for (u32 round = 0; round < rounds; round++) {
        add_one(counter);
        sum_up(round, &odd, &even, &odds, &evens);
    }
    return odd == half * half && even == half * half - half && odds == half && evens == half;
}

static u32 count(u32 rounds)
{
    volatile u32 *counter = (u32 *)map(READ | WRITE, SHARED | ANONYMOUS, -1);
    word child = fork();
    u32 good = add_up(counter, rounds);
    if (!child)
        call(EXIT, !good, 0, 0, 0, 0, 0);
    return good & !exit_status() ? *counter : 0;
}

static u32 number(const char *text)
{
    u32 value = 0;
    while (*text)
        value = value * 10 + (*text++ - '0');
    return value;
}

static void print(u32 value)
{
    char line[12], *first = line + sizeof line;
    *--first = '\n';
    do
        *--first = '0' + value % 10;
    while (value /= 10);
    checked(WRITE_FILE, 1, (word)first, line + sizeof line - first, 0, 0);
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static const struct {
    const char *name;
    u32 (*run)(u32 rounds);
} MODES[] = {
    {"jit", jit}, {"self", self}, {"cached", cached}, {"recycled", recycled}, {"forked", forked}, {"count", count},
};

/* The stack as the kernel leaves it: argc, argv. */
__attribute__((used, noreturn)) void begin(word *stack)
{
    char **arguments = (char **)(stack + 1);
    for (u32 mode = 0; stack[0] == 3 && mode < sizeof MODES / sizeof *MODES; mode++)
        if (same(arguments[1], MODES[mode].name)) {
            print(MODES[mode].run(number(arguments[2])));
            call(EXIT, 0, 0, 0, 0, 0, 0);
        }
    call(EXIT, FAILED, 0, 0, 0, 0, 0);
    for (;;)
        ;
}
