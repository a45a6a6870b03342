/* Modes, owners, times, extended attributes (Linux's), locks, and what somebody may do who is not root. */

enum { SOMEBODY = 1000 };

static void modes(void)
{
    put("m", "x");
    succeeds("chmod", chmod("m", 0640));
    is("chmod.mode", stat("m").mode, S_IFREG | 0640);
    fd = open("m", O_RDONLY, 0);
    succeeds("fchmod", CALL3(FCHMOD, fd, 04711, 0));
    is("fchmod.mode", stat("m").mode, S_IFREG | 04711);
    succeeds("chmod.through-link", (symlink("m", "to-m"), chmod("to-m", 0600)));
    is("chmod.target", stat("m").mode, S_IFREG | 0600);
    is("chmod.missing", chmod("none", 0600), -ENOENT);
    succeeds("chmod.sticky", chmod("d", 01777));
    is("chmod.sticky-mode", stat("d").mode, S_IFDIR | 01777);
    succeeds("fchown.nothing", CALL3(FCHOWN, fd, -1, -1));
    close(fd);
    succeeds("chown", chown("m", 12, 34));
    is("chown.uid", stat("m").uid, 12);
    is("chown.gid", stat("m").gid, 34);
    succeeds("chown.group-only", chown("m", -1, 56));
    is("chown.keeps-uid", stat("m").uid, 12);
    is("chown.new-gid", stat("m").gid, 56);
    succeeds("chown.set-uid-program", (chmod("m", 04755), chown("m", 0, 0)));
    is("chown.clears-set-uid", stat("m").mode, S_IFREG | 0755);
    succeeds("lchown", lchown("to-m", 7, 8));
    is("lchown.link", lstat("to-m").uid, 7);
    is("lchown.leaves-target", stat("m").uid, 0);
    is("chown.missing", chown("none", 0, 0), -ENOENT);
}

static void attributes(void)
{
    put("x", "x");
    succeeds("setxattr", setxattr("x", "user.one", "first", 5, 0));
    is("getxattr.size", getxattr("x", "user.one", buffer, 0), 5);
    is("getxattr", getxattr("x", "user.one", buffer, sizeof buffer), 5);
    holds("getxattr.value", same(buffer, "first", 5));
    is("getxattr.small", getxattr("x", "user.one", buffer, 4), -ERANGE);
    is("getxattr.missing", getxattr("x", "user.two", buffer, sizeof buffer), -ENODATA);
    is("setxattr.create", setxattr("x", "user.one", "again", 5, XATTR_CREATE), -EEXIST);
    is("setxattr.replace", setxattr("x", "user.two", "again", 5, XATTR_REPLACE), -ENODATA);
    memset(buffer, 'b', 3000);
    succeeds("setxattr.large", setxattr("x", "user.one", buffer, 3000, XATTR_REPLACE));
    is("getxattr.large", getxattr("x", "user.one", other, sizeof other), 3000);
    holds("getxattr.large-value", same(buffer, other, 3000));
    succeeds("setxattr.empty", setxattr("x", "user.two", "", 0, XATTR_CREATE));
    is("getxattr.empty", getxattr("x", "user.two", buffer, sizeof buffer), 0);
    is("listxattr", listxattr("x", buffer, sizeof buffer), 2 * sizeof "user.one");
    succeeds("setxattr.directory", setxattr("d", "user.one", "dir", 3, 0));
    is("getxattr.directory", getxattr("d", "user.one", buffer, sizeof buffer), 3);
    succeeds("removexattr", removexattr("x", "user.two"));
    is("removexattr.missing", removexattr("x", "user.two"), -ENODATA);
    is("listxattr.after", listxattr("x", buffer, sizeof buffer), sizeof "user.one");
    succeeds("rename.with-attribute", rename("x", "y"));
    is("rename.keeps-attribute", getxattr("y", "user.one", buffer, sizeof buffer), 3000);
    succeeds("removexattr.directory", removexattr("d", "user.one"));
}

/* Sets a modification time long ago. */
static void age(const char *path) { utimens(path, (struct timespec[2]){ { 5, 0 }, { 5, 0 } }, 0); }

static void times(void)
{
    put("t", "x");
    succeeds("utimensat", utimens("t", (struct timespec[2]){ { 1000, 1 }, { 2000, 123456789 } }, 0));
    is("utimensat.atime", stat("t").atime.sec, 1000);
    is("utimensat.mtime", stat("t").mtime.sec, 2000);
    is("utimensat.nanoseconds", stat("t").mtime.nsec, 123456789);
    holds("utimensat.ctime", stat("t").ctime.sec > 2000);
    succeeds("utimensat.omit", utimens("t", (struct timespec[2]){ { 0, UTIME_OMIT }, { 3000, 0 } }, 0));
    is("utimensat.omit-atime", stat("t").atime.sec, 1000);
    is("utimensat.omit-mtime", stat("t").mtime.sec, 3000);
    succeeds("utimensat.now", utimens("t", (struct timespec[2]){ { 0, UTIME_OMIT }, { 0, UTIME_NOW } }, 0));
    holds("utimensat.now-mtime", stat("t").mtime.sec > 3000);
    is("utimensat.bad", utimens("t", (struct timespec[2]){ { 0, -5 }, { 0, 0 } }, 0), -EINVAL);
    is("utimensat.missing", utimens("none", (struct timespec[2]){ { 0, 0 }, { 0, 0 } }, 0), -ENOENT);
    symlink("t", "to-t");
    succeeds("utimensat.link", utimens("to-t", (struct timespec[2]){ { 9, 0 }, { 9, 0 } }, AT_SYMLINK_NOFOLLOW));
    is("utimensat.link-mtime", lstat("to-t").mtime.sec, 9);
    holds("utimensat.link-leaves-target", stat("t").mtime.sec > 3000);
    age("t");
    put("t", "changed");
    holds("write.mtime", stat("t").mtime.sec > 5);
    age("t");
    truncate("t", 2);
    holds("truncate.mtime", stat("t").mtime.sec > 5);
    age("t");
    chmod("t", 0600);
    is("chmod.leaves-mtime", stat("t").mtime.sec, 5);
    age("d");
    put("d/new", "");
    holds("creat.directory-mtime", stat("d").mtime.sec > 5);
    age("d");
    unlink("d/new");
    holds("unlink.directory-mtime", stat("d").mtime.sec > 5);
    age("d");
    rename("t", "d/t");
    holds("rename.directory-mtime", stat("d").mtime.sec > 5);
    is("rename.leaves-mtime", stat("d/t").mtime.sec, 5);
    age("d");
    mkdir("d/sub", 0755);
    holds("mkdir.directory-mtime", stat("d").mtime.sec > 5);
    rmdir("d/sub"), unlink("d/t");
}

static long lock(int command, int type, long start, long size, struct flock *told)
{
    *told = (struct flock){ .type = (short)type, .start = start, .length = size };
    return fcntl(fd, command, (word)told);
}

static struct flock theirs;

static long child_takes_all(void) { return -lock(F_SETLK, F_WRLCK, 0, 0, &theirs); }
static long child_reads_all(void) { return -lock(F_SETLK, F_RDLCK, 0, 0, &theirs); }
static long child_takes_the_end(void) { return -lock(F_SETLK, F_WRLCK, 50, 10, &theirs); }
static long child_asks(void) { return lock(F_GETLK, F_WRLCK, 0, 0, &theirs) ? 255 : theirs.type * 100 + (theirs.pid != 0); }

static void locks(void)
{
    struct flock told;
    put("lock", "x");
    fd = open("lock", O_RDWR, 0);
    succeeds("lock", lock(F_SETLK, F_WRLCK, 0, 10, &told));
    is("lock.own-is-not-told", (lock(F_GETLK, F_WRLCK, 0, 0, &told), told.type), F_UNLCK);
    is("lock.conflict", in_child(child_takes_all), EAGAIN);
    is("lock.read-conflict", in_child(child_reads_all), EAGAIN);
    is("lock.told-with-owner", in_child(child_asks), F_WRLCK * 100 + 1);
    is("lock.other-range", in_child(child_takes_the_end), 0);
    succeeds("lock.shared", lock(F_SETLK, F_RDLCK, 0, 10, &told));
    is("lock.shared-twice", in_child(child_reads_all), 0);
    is("lock.shared-conflict", in_child(child_takes_all), EAGAIN);
    succeeds("unlock.part", lock(F_SETLK, F_UNLCK, 0, 5, &told));
    is("unlock.part-conflict", in_child(child_takes_all), EAGAIN);
    succeeds("unlock", lock(F_SETLK, F_UNLCK, 0, 0, &told));
    is("unlock.free", in_child(child_takes_all), 0);
    lock(F_SETLK, F_WRLCK, 0, 0, &told);
    close(open("lock", O_RDONLY, 0));
    is("lock.goes-with-any-close", in_child(child_takes_all), 0);
    close(fd);
    fd = open("lock", O_RDONLY, 0);
    is("lock.write-of-read-only", lock(F_SETLK, F_WRLCK, 0, 0, &told), -EBADF);
    is("fcntl.dupfd", fcntl(fd, F_DUPFD, 20), 20);
    close(20);
    succeeds("fcntl.cloexec", fcntl(fd, F_SETFD, 1));
    is("fcntl.cloexec-is-set", fcntl(fd, F_GETFD, 0), 1);
    close(fd);
}

static long as_somebody(long (*work)(void))
{
    CALL3(SETRESGID, SOMEBODY, SOMEBODY, SOMEBODY);
    CALL3(SETRESUID, SOMEBODY, SOMEBODY, SOMEBODY);
    long answer = work();
    return answer < 0 ? -answer : 0;
}

#define SOMEBODY_DOES(name, what)                   \
    static long name##_work(void) { return what; } \
    static long name(void) { return as_somebody(name##_work); }

SOMEBODY_DOES(reads_secret, open("secret", O_RDONLY, 0))
SOMEBODY_DOES(writes_secret, open("secret", O_WRONLY, 0))
SOMEBODY_DOES(writes_public, open("public", O_WRONLY, 0))
SOMEBODY_DOES(reads_public, open("public", O_RDONLY, 0))
SOMEBODY_DOES(searches, open("closed/file", O_RDONLY, 0))
SOMEBODY_DOES(lists, open("closed", O_RDONLY, 0))
SOMEBODY_DOES(creates, open("new", O_WRONLY | O_CREAT, 0644))
SOMEBODY_DOES(makes, mkdir("new", 0755))
SOMEBODY_DOES(removes, unlink("public"))
SOMEBODY_DOES(renames, rename("public", "other"))
SOMEBODY_DOES(changes_mode, chmod("public", 0777))
SOMEBODY_DOES(changes_owner, chown("public", SOMEBODY, SOMEBODY))
SOMEBODY_DOES(sets_times, utimens("public", (struct timespec[2]){ { 1, 0 }, { 1, 0 } }, 0))
SOMEBODY_DOES(cuts, truncate("public", 0))
SOMEBODY_DOES(removes_sticky, unlink("open/theirs"))
SOMEBODY_DOES(creates_open, open("open/ours", O_WRONLY | O_CREAT | O_EXCL, 0640))
SOMEBODY_DOES(gives_away, chown("open/ours", 0, -1))
SOMEBODY_DOES(changes_own_mode, chmod("open/ours", 0600))
SOMEBODY_DOES(removes_own, unlink("open/ours"))

static void somebody(void)
{
    put("secret", "x"), chmod("secret", 0600), put("public", "x");
    mkdir("closed", 0700), put("closed/file", "x");
    mkdir("open", 0755), chmod("open", 01777), put("open/theirs", "x"), chmod("open/theirs", 0666);
    is("other.reads-secret", in_child(reads_secret), EACCES);
    is("other.writes-secret", in_child(writes_secret), EACCES);
    is("other.writes-public", in_child(writes_public), EACCES);
    is("other.reads-public", in_child(reads_public), 0);
    is("other.searches", in_child(searches), EACCES);
    is("other.lists", in_child(lists), EACCES);
    is("other.creates", in_child(creates), EACCES);
    is("other.makes-directory", in_child(makes), EACCES);
    is("other.removes", in_child(removes), EACCES);
    is("other.renames", in_child(renames), EACCES);
    is("other.changes-mode", in_child(changes_mode), EPERM);
    is("other.changes-owner", in_child(changes_owner), EPERM);
    is("other.sets-times", in_child(sets_times), EPERM);
    is("other.truncates", in_child(cuts), EACCES);
    is("other.removes-in-sticky", in_child(removes_sticky), EPERM);
    is("other.creates-in-open", in_child(creates_open), 0);
    is("other.owns-what-it-makes", stat("open/ours").uid, SOMEBODY);
    is("other.group-of-what-it-makes", stat("open/ours").gid, SOMEBODY);
    is("other.gives-away", in_child(gives_away), EPERM);
    is("other.changes-own-mode", in_child(changes_own_mode), 0);
    is("other.removes-own", in_child(removes_own), 0);
}

static void others(void)
{
    modes();
    attributes();
    times();
    locks();
    somebody();
}
