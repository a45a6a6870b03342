/* Linux without a library: numbers of system calls, what POSIX calls them, and the constants that they take. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long word;
typedef unsigned long long u64;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, LSEEK = 8, MMAP = 9, MUNMAP = 11, PREAD = 17, PWRITE = 18, READV = 19, WRITEV = 20 };
enum { MSYNC = 26, DUP = 32, CLONE = 56, WAIT4 = 61, FCNTL = 72, FSYNC = 74, FDATASYNC = 75, TRUNCATE = 76, FTRUNCATE = 77 };
enum { GETCWD = 79, CHDIR = 80, FCHDIR = 81, FCHMOD = 91, FCHOWN = 93, UMASK = 95, SETRESUID = 117, SETRESGID = 119 };
enum { STATFS = 137, GETDENTS = 217, EXIT = 231, OPENAT = 257, MKDIRAT = 258, MKNODAT = 259, FCHOWNAT = 260, UNLINKAT = 263 };
enum { LINKAT = 265, SYMLINKAT = 266, READLINKAT = 267, FCHMODAT = 268, FACCESSAT = 269, UTIMENSAT = 280, FALLOCATE = 285 };
enum { RENAMEAT2 = 316, STATX = 332, SETXATTR = 188, GETXATTR = 191, LISTXATTR = 194, REMOVEXATTR = 197 };
#else /* include/uapi/asm-generic/unistd.h */
enum { GETCWD = 17, DUP = 23, FCNTL = 25, MKNODAT = 33, MKDIRAT = 34, UNLINKAT = 35, SYMLINKAT = 36, LINKAT = 37 };
enum { STATFS = 43, TRUNCATE = 45, FTRUNCATE = 46, FALLOCATE = 47, FACCESSAT = 48, CHDIR = 49, FCHDIR = 50, FCHMOD = 52 };
enum { FCHMODAT = 53, FCHOWNAT = 54, FCHOWN = 55, OPENAT = 56, CLOSE = 57, GETDENTS = 61, LSEEK = 62, READ = 63, WRITE = 64 };
enum { READV = 65, WRITEV = 66, PREAD = 67, PWRITE = 68, READLINKAT = 78, FSYNC = 82, FDATASYNC = 83, UTIMENSAT = 88, EXIT = 94 };
enum { SETRESUID = 147, SETRESGID = 149, UMASK = 166, MUNMAP = 215, CLONE = 220, MMAP = 222, MSYNC = 227, WAIT4 = 260 };
enum { RENAMEAT2 = 276, STATX = 291, SETXATTR = 5, GETXATTR = 8, LISTXATTR = 11, REMOVEXATTR = 14 };
#endif

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_TRUNC = 01000, O_APPEND = 02000 };
enum { O_NONBLOCK = 04000 };
#if defined(__aarch64__)
enum { O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };
#else
enum { O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };
#endif
enum { AT_FDCWD = -100, AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200, AT_SYMLINK_FOLLOW = 0x400 };
enum { S_IFMT = 0170000, S_IFIFO = 010000, S_IFDIR = 040000, S_IFREG = 0100000, S_IFLNK = 0120000 };
enum { SEEK_SET, SEEK_CUR, SEEK_END };
enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MS_SYNC = 4, SIGCHLD = 17 };
enum { F_DUPFD = 0, F_GETFD = 1, F_SETFD = 2, F_GETFL = 3, F_SETFL = 4, F_GETLK = 5, F_SETLK = 6, F_RDLCK = 0, F_WRLCK, F_UNLCK };
enum { EPERM = 1, ENOENT, EBADF = 9, EAGAIN = 11, EACCES = 13, EBUSY = 16, EEXIST = 17, ENOTDIR = 20, EISDIR, EINVAL };
enum { ESPIPE = 29, ENXIO = 6, ERANGE = 34, ENAMETOOLONG = 36, ENOTEMPTY = 39, ELOOP = 40, ENODATA = 61 };
enum { XATTR_CREATE = 1, XATTR_REPLACE = 2 };
#define UTIME_NOW 0x3FFFFFFFL
#define UTIME_OMIT 0x3FFFFFFEL

struct stat { /* struct statx: the same on every CPU */
    u32 mask, block_size;
    u64 attributes;
    u32 nlink, uid, gid;
    u16 mode, pad;
    u64 ino, size, blocks, attributes_mask;
    struct {
        long long sec;
        u32 nsec, pad;
    } atime, btime, ctime, mtime;
    u32 rdev_major, rdev_minor, dev_major, dev_minor;
    u64 spare[14];
};

struct dirent { /* getdents64(2) */
    u64 ino, off;
    u16 size;
    u8 type;
    char name[];
};

struct flock {
    short type, whence;
    long start, length;
    int pid;
};

struct iovec {
    void *base;
    word size;
};

struct timespec {
    long sec, nsec;
};

/* Linux's answer: a value, or an errno below zero. */
#if defined(__riscv)
__asm__(".globl _start\n_start: mv a0, sp\n    j begin");

static long call(word number, word a, word b, word c, word d, word e, word f)
{
    register word a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a3 __asm__("a3") = d;
    register word a4 __asm__("a4") = e, a5 __asm__("a5") = f, a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
    return (long)a0;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n    b begin");

static long call(word number, word a, word b, word c, word d, word e, word f)
{
    register word x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
    register word x4 __asm__("x4") = e, x5 __asm__("x5") = f, x8 __asm__("x8") = number;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8) : "memory");
    return (long)x0;
}
#else
__asm__(".globl _start\n_start: mov %rsp, %rdi\n    and $-16, %rsp\n    call begin");

static long call(word number, word a, word b, word c, word d, word e, word f)
{
    register word r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return (long)number;
}
#endif

#define CALL3(number, a, b, c) call(number, (word)(a), (word)(b), (word)(c), 0, 0, 0)
#define CALL5(number, a, b, c, d, e) call(number, (word)(a), (word)(b), (word)(c), (word)(d), (word)(e), 0)

/* The calls by the names POSIX has for them. */
static long open(const char *path, int flags, int mode) { return CALL5(OPENAT, AT_FDCWD, path, flags, mode, 0); }
static long close(long fd) { return CALL3(CLOSE, fd, 0, 0); }
static long read(long fd, void *data, word size) { return CALL3(READ, fd, data, size); }
static long write(long fd, const void *data, word size) { return CALL3(WRITE, fd, data, size); }
static long pread(long fd, void *data, word size, long at) { return CALL5(PREAD, fd, data, size, at, 0); }
static long pwrite(long fd, const void *data, word size, long at) { return CALL5(PWRITE, fd, data, size, at, 0); }
static long lseek(long fd, long offset, int whence) { return CALL3(LSEEK, fd, offset, whence); }
static long fcntl(long fd, int command, word argument) { return CALL3(FCNTL, fd, command, argument); }
static long truncate(const char *path, long size) { return CALL3(TRUNCATE, path, size, 0); }
static long ftruncate(long fd, long size) { return CALL3(FTRUNCATE, fd, size, 0); }
static long mkdir(const char *path, int mode) { return CALL3(MKDIRAT, AT_FDCWD, path, mode); }
static long mkfifo(const char *path, int mode) { return CALL5(MKNODAT, AT_FDCWD, path, S_IFIFO | mode, 0, 0); }
static long unlink(const char *path) { return CALL3(UNLINKAT, AT_FDCWD, path, 0); }
static long rmdir(const char *path) { return CALL3(UNLINKAT, AT_FDCWD, path, AT_REMOVEDIR); }
static long link_at(const char *old, const char *new, int flags) { return CALL5(LINKAT, AT_FDCWD, old, AT_FDCWD, new, flags); }
static long link(const char *old, const char *new) { return link_at(old, new, 0); }
static long symlink(const char *target, const char *path) { return CALL3(SYMLINKAT, target, AT_FDCWD, path); }
static long readlink(const char *path, char *to, word size) { return CALL5(READLINKAT, AT_FDCWD, path, to, size, 0); }
static long rename(const char *old, const char *new) { return CALL5(RENAMEAT2, AT_FDCWD, old, AT_FDCWD, new, 0); }
static long chmod(const char *path, int mode) { return CALL3(FCHMODAT, AT_FDCWD, path, mode); }
static long chown(const char *path, int uid, int gid) { return CALL5(FCHOWNAT, AT_FDCWD, path, uid, gid, 0); }
static long lchown(const char *path, int uid, int gid) { return CALL5(FCHOWNAT, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW); }
static long setxattr(const char *path, const char *name, const void *value, word size, int flags)
{
    return CALL5(SETXATTR, path, name, value, size, flags);
}
static long getxattr(const char *path, const char *name, void *value, word size)
{
    return CALL5(GETXATTR, path, name, value, size, 0);
}
static long listxattr(const char *path, void *names, word size) { return CALL3(LISTXATTR, path, names, size); }
static long removexattr(const char *path, const char *name) { return CALL3(REMOVEXATTR, path, name, 0); }
static long access(const char *path, int mode) { return CALL3(FACCESSAT, AT_FDCWD, path, mode); }
static long chdir(const char *path) { return CALL3(CHDIR, path, 0, 0); }
static long umask(int mask) { return CALL3(UMASK, mask, 0, 0); }
static long utimens(const char *path, const struct timespec *times, int flags)
{
    return CALL5(UTIMENSAT, AT_FDCWD, path, times, flags, 0);
}
static long stat_at(long fd, const char *path, int flags, struct stat *found)
{
    return CALL5(STATX, fd, path, flags, 0x7FF, found);
}
static long map(word size, int protection, int flags, long fd)
{
    return call(MMAP, 0, size, (word)protection, (word)flags, (word)fd, 0);
}
