/* What POSIX.1-2017 says of files and directories, and Linux of extended attributes, in a new directory: posix DIRECTORY.
 *
 * Prints `FAILED NAME got X want Y` for each check that failed (an errno is below zero) and `N checks, M failed`. It is to be
 * run by root, as who it also tries what somebody else may do.
 */
#include "linux.h"

#define AT_EMPTY_PATH 0x1000
#define LONG_NAME 255
#define MANY 200
#define LARGE 300000

static int checks, failures;
static char buffer[LARGE], other[LARGE];
static long fd;

static word length(const char *text)
{
    word size = 0;
    while (text[size])
        size++;
    return size;
}

static void say(const char *text) { write(1, text, length(text)); }

static void say_number(long value)
{
    char digits[24], *at = digits + sizeof digits - 1;
    word left = value < 0 ? -(word)value : (word)value;
    *at = '\0';
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--at = '-';
    say(at);
}

/* A check: what came out is what POSIX says. */
static void is(const char *name, long got, long want)
{
    checks++;
    if (got == want)
        return;
    failures++;
    say("FAILED "), say(name), say(" got "), say_number(got), say(" want "), say_number(want), say("\n");
}

static void succeeds(const char *name, long got) { is(name, got < 0 ? got : 0, 0); }

static void holds(const char *name, int condition) { is(name, condition, 1); }

static int same(const void *left, const void *right, word size)
{
    const char *a = left, *b = right;
    while (size && *a == *b)
        a++, b++, size--;
    return !size;
}

/* What the compiler calls. */
void *memset(void *to, int byte, word size)
{
    for (u8 *at = to; size; size--)
        *at++ = (u8)byte;
    return to;
}

void *memcpy(void *to, const void *from, word size)
{
    const u8 *in = from;
    for (u8 *at = to; size; size--)
        *at++ = *in++;
    return to;
}

static struct stat stat(const char *path)
{
    struct stat found = { .mode = 0 };
    stat_at(AT_FDCWD, path, 0, &found);
    return found;
}

static struct stat lstat(const char *path)
{
    struct stat found = { .mode = 0 };
    stat_at(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &found);
    return found;
}

static struct stat fstat(long file)
{
    struct stat found = { .mode = 0 };
    stat_at(file, "", AT_EMPTY_PATH, &found);
    return found;
}

static long error_of_stat(const char *path)
{
    struct stat found;
    return stat_at(AT_FDCWD, path, 0, &found);
}

/* A closed file with a text in it, made anew. */
static void put(const char *path, const char *text)
{
    long file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    write(file, text, length(text));
    close(file);
}

static int has(const char *path, const char *text)
{
    long file = open(path, O_RDONLY, 0), size = read(file, other, sizeof other);
    close(file);
    return size == (long)length(text) && same(other, text, length(text));
}

/* What a child process answers, 0 to 255. */
static long in_child(long (*work)(void))
{
    long status = 0, child = call(CLONE, SIGCHLD, 0, 0, 0, 0, 0);
    if (child == 0)
        call(EXIT, (word)work(), 0, 0, 0, 0, 0);
    call(WAIT4, (word)child, (word)&status, 0, 0, 0, 0);
    return status >> 8 & 255;
}

#include "files.h"
#include "names.h"
#include "others.h"

void begin(const word *stack)
{
    const char *directory = (const char *)stack[2]; /* argc, argv[0], argv[1] */
    umask(022);
    if (mkdir(directory, 0755) || chdir(directory)) {
        say("no new directory there\n");
        call(EXIT, 2, 0, 0, 0, 0, 0);
    }
    files();
    names();
    others();
    say_number(checks), say(" checks, "), say_number(failures), say(" failed\n");
    call(EXIT, failures != 0, 0, 0, 0, 0, 0);
}
