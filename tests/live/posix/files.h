/* Opening, reading, writing, sizes, offsets, mappings. */

static void opening(void)
{
    is("open.missing", open("none", O_RDONLY, 0), -ENOENT);
    is("open.empty-path", open("", O_RDONLY, 0), -ENOENT);
    succeeds("open.creat", fd = open("a", O_RDWR | O_CREAT, 0666));
    is("open.creat-is-empty", (long)stat("a").size, 0);
    is("open.creat-mode-is-masked", stat("a").mode, S_IFREG | 0644);
    is("open.lowest-descriptor", fd, 3);
    close(fd);
    umask(077);
    fd = open("masked", O_RDWR | O_CREAT, 0777);
    umask(022);
    is("open.other-mask", stat("masked").mode, S_IFREG | 0700);
    close(fd);
    is("open.excl-existing", open("a", O_RDWR | O_CREAT | O_EXCL, 0666), -EEXIST);
    succeeds("open.excl-new", close(open("excl", O_RDWR | O_CREAT | O_EXCL, 0666)));
    symlink("nowhere", "dangling");
    is("open.excl-dangling-link", open("dangling", O_RDWR | O_CREAT | O_EXCL, 0666), -EEXIST);
    is("open.dangling-link", open("dangling", O_RDONLY, 0), -ENOENT);
    succeeds("open.creat-through-link", close(open("dangling", O_RDWR | O_CREAT, 0666)));
    is("open.creat-made-the-target", stat("nowhere").mode, S_IFREG | 0644);
    put("text", "hello");
    succeeds("open.trunc", close(open("text", O_WRONLY | O_TRUNC, 0)));
    is("open.trunc-empties", (long)stat("text").size, 0);
    mkdir("dir", 0755);
    is("open.directory-for-writing", open("dir", O_WRONLY, 0), -EISDIR);
    is("open.creat-directory", open("dir", O_RDWR | O_CREAT, 0666), -EISDIR);
    is("open.directory-flag-on-file", open("a", O_RDONLY | O_DIRECTORY, 0), -ENOTDIR);
    is("open.file-as-prefix", open("a/x", O_RDONLY, 0), -ENOTDIR);
    is("open.trailing-slash", open("a/", O_RDONLY, 0), -ENOTDIR);
    is("open.creat-in-missing", open("none/x", O_RDWR | O_CREAT, 0666), -ENOENT);
    symlink("loop", "loop");
    is("open.loop", open("loop", O_RDONLY, 0), -ELOOP);
    symlink("a", "link");
    is("open.nofollow", open("link", O_RDONLY | O_NOFOLLOW, 0), -ELOOP);
    succeeds("open.link", close(open("link", O_RDONLY, 0)));
    fd = open("readonly", O_RDWR | O_CREAT, 0444);
    is("open.creat-readonly-is-writable-once", write(fd, "x", 1), 1);
    close(fd);
    for (int at = 0; at < 4200; at++)
        buffer[at] = 'n';
    buffer[LONG_NAME] = '\0';
    succeeds("open.longest-name", close(open(buffer, O_RDWR | O_CREAT, 0666)));
    succeeds("unlink.longest-name", unlink(buffer));
    buffer[LONG_NAME] = 'n', buffer[LONG_NAME + 1] = '\0';
    is("open.name-too-long", open(buffer, O_RDWR | O_CREAT, 0666), -ENAMETOOLONG);
    buffer[LONG_NAME + 1] = 'n', buffer[4199] = '\0';
    is("open.path-too-long", open(buffer, O_RDONLY, 0), -ENAMETOOLONG);
    succeeds("mkfifo", mkfifo("fifo", 0644));
    is("mkfifo.type", stat("fifo").mode, S_IFIFO | 0644);
    is("mkfifo.existing", mkfifo("fifo", 0644), -EEXIST);
    is("open.fifo-without-reader", open("fifo", O_WRONLY | O_NONBLOCK, 0), -ENXIO);
    succeeds("open.fifo", fd = open("fifo", O_RDONLY | O_NONBLOCK, 0));
    is("lseek.fifo", lseek(fd, 0, SEEK_SET), -ESPIPE);
    long writer = open("fifo", O_WRONLY, 0);
    is("write.fifo", write(writer, "pipe", 4), 4);
    is("read.fifo", read(fd, buffer, 10), 4);
    close(writer), close(fd);
}

static void reading_and_writing(void)
{
    fd = open("data", O_RDWR | O_CREAT | O_TRUNC, 0644);
    is("write.count", write(fd, "0123456789", 10), 10);
    is("write.size", (long)fstat(fd).size, 10);
    holds("write.blocks", fstat(fd).blocks > 0);
    is("lseek.cur", lseek(fd, 0, SEEK_CUR), 10);
    is("read.at-end", read(fd, buffer, 10), 0);
    is("lseek.set", lseek(fd, 3, SEEK_SET), 3);
    is("read.count", read(fd, buffer, 4), 4);
    holds("read.content", same(buffer, "3456", 4));
    is("read.short", read(fd, buffer, 100), 3);
    is("lseek.end", lseek(fd, -2, SEEK_END), 8);
    is("lseek.negative", lseek(fd, -1, SEEK_SET), -EINVAL);
    is("lseek.before-start", lseek(fd, -11, SEEK_END), -EINVAL);
    is("lseek.whence", lseek(fd, 0, 99), -EINVAL);
    is("lseek.failure-leaves-offset", lseek(fd, 0, SEEK_CUR), 8);
    is("pread.count", pread(fd, buffer, 3, 1), 3);
    holds("pread.content", same(buffer, "123", 3));
    is("pwrite.count", pwrite(fd, "X", 1, 0), 1);
    is("pwrite.leaves-offset", lseek(fd, 0, SEEK_CUR), 8);
    is("pread.negative", pread(fd, buffer, 1, -1), -EINVAL);
    is("pwrite.negative", pwrite(fd, buffer, 1, -1), -EINVAL);
    is("write.nothing", write(fd, "", 0), 0);
    is("lseek.beyond", lseek(fd, 1000, SEEK_SET), 1000);
    is("lseek.beyond-leaves-size", (long)fstat(fd).size, 10);
    is("read.beyond", read(fd, buffer, 1), 0);
    is("write.beyond", write(fd, "end", 3), 3);
    is("write.beyond-size", (long)fstat(fd).size, 1003);
    buffer[0] = buffer[989] = 'x';
    is("read.hole", pread(fd, buffer, 990, 10), 990);
    holds("read.hole-is-zero", !buffer[0] && !buffer[500] && !buffer[989]);
    long second = open("data", O_RDONLY, 0), copy = CALL3(DUP, fd, 0, 0);
    is("dup.shares-offset", (lseek(fd, 7, SEEK_SET), lseek(copy, 0, SEEK_CUR)), 7);
    is("open.own-offset", lseek(second, 0, SEEK_CUR), 0);
    pwrite(fd, "fresh", 5, 0);
    is("read.other-descriptors-write", read(second, buffer, 5), 5);
    holds("read.other-descriptors-content", same(buffer, "fresh", 5));
    is("write.read-only", write(second, "x", 1), -EBADF);
    close(second), close(copy);
    is("read.closed", read(copy, buffer, 1), -EBADF);
    is("close.closed", close(copy), -EBADF);
    second = open("data", O_WRONLY, 0);
    is("read.write-only", read(second, buffer, 1), -EBADF);
    close(second);
    second = open("dir", O_RDONLY, 0);
    is("read.directory", read(second, buffer, 1), -EISDIR);
    is("write.directory", write(second, buffer, 1), -EBADF);
    close(second), close(fd);

    fd = open("log", O_RDWR | O_CREAT | O_APPEND, 0644);
    write(fd, "one", 3);
    lseek(fd, 0, SEEK_SET);
    is("append.write", write(fd, "two", 3), 3);
    is("append.offset", lseek(fd, 0, SEEK_CUR), 6);
    holds("append.content", has("log", "onetwo"));
    is("append.flag", fcntl(fd, F_GETFL, 0) & (O_APPEND | 3), O_APPEND | O_RDWR);
    succeeds("append.off", fcntl(fd, F_SETFL, 0));
    is("append.off-write", (lseek(fd, 0, SEEK_SET), write(fd, "1", 1)), 1);
    holds("append.off-content", has("log", "1netwo"));
    close(fd);

    struct iovec parts[2] = { { "ab", 2 }, { "cde", 3 } };
    fd = open("parts", O_RDWR | O_CREAT, 0644);
    is("writev", CALL3(WRITEV, fd, parts, 2), 5);
    parts[0] = (struct iovec){ buffer, 1 }, parts[1] = (struct iovec){ buffer + 10, 8 };
    lseek(fd, 0, SEEK_SET);
    is("readv", CALL3(READV, fd, parts, 2), 5);
    holds("readv.content", buffer[0] == 'a' && same(buffer + 10, "bcde", 4));
    close(fd);

    for (int at = 0; at < LARGE; at++)
        buffer[at] = (char)(at * 7 + at / 251);
    fd = open("large", O_RDWR | O_CREAT, 0644);
    is("write.large", write(fd, buffer, LARGE), LARGE);
    is("read.large", pread(fd, other, LARGE, 0), LARGE);
    holds("read.large-content", same(buffer, other, LARGE));
    is("pwrite.across", pwrite(fd, "seam", 4, 65534), 4);
    is("pread.across", pread(fd, other, 4, 65534), 4);
    holds("pread.across-content", same(other, "seam", 4));
    succeeds("fsync", CALL3(FSYNC, fd, 0, 0));
    succeeds("fdatasync", CALL3(FDATASYNC, fd, 0, 0));
    close(fd);
    is("fsync.closed", CALL3(FSYNC, fd, 0, 0), -EBADF);
    fd = open("dir", O_RDONLY, 0);
    succeeds("fsync.directory", CALL3(FSYNC, fd, 0, 0));
    close(fd);
}

static void truncating(void)
{
    put("cut", "0123456789");
    fd = open("cut", O_RDWR, 0);
    lseek(fd, 8, SEEK_SET);
    succeeds("ftruncate", ftruncate(fd, 4));
    is("ftruncate.size", (long)stat("cut").size, 4);
    is("ftruncate.leaves-offset", lseek(fd, 0, SEEK_CUR), 8);
    is("ftruncate.read-behind", read(fd, buffer, 1), 0);
    succeeds("ftruncate.longer", ftruncate(fd, 10));
    is("ftruncate.longer-read", pread(fd, buffer, 20, 0), 10);
    holds("ftruncate.longer-is-zero", same(buffer, "0123\0\0\0\0\0\0", 10));
    is("ftruncate.negative", ftruncate(fd, -1), -EINVAL);
    close(fd);
    fd = open("cut", O_RDONLY, 0);
    is("ftruncate.read-only", ftruncate(fd, 0), -EINVAL);
    close(fd);
    succeeds("truncate", truncate("cut", 2));
    holds("truncate.content", has("cut", "01"));
    succeeds("truncate.through-link", (symlink("cut", "cut-link"), truncate("cut-link", 1)));
    is("truncate.target-size", (long)stat("cut").size, 1);
    is("truncate.directory", truncate("dir", 0), -EISDIR);
    is("truncate.missing", truncate("none", 0), -ENOENT);
    is("truncate.file-as-prefix", truncate("cut/x", 0), -ENOTDIR);
    is("truncate.negative", truncate("cut", -1), -EINVAL);
}

static void mapping(void)
{
    put("map", "mapped content");
    fd = open("map", O_RDWR, 0);
    const char *seen = (const char *)map(4096, PROT_READ, MAP_SHARED, fd);
    holds("mmap.shared-reads", (long)seen > 0 && same(seen, "mapped content", 14));
    holds("mmap.end-is-zero", (long)seen > 0 && seen[14] == 0 && seen[4095] == 0);
    char *own = (char *)map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    holds("mmap.private", (long)own > 0 && (own[0] = 'M') == 'M');
    holds("mmap.private-stays-private", has("map", "mapped content"));
    long shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    holds("mmap.shared-writes", shared > 0);
    if (shared > 0)
        *(volatile char *)shared = 'W';
    succeeds("msync", CALL3(MSYNC, shared, 4096, MS_SYNC));
    holds("msync.content", has("map", "Wapped content"));
    pwrite(fd, "w", 1, 0);
    holds("mmap.sees-writes", shared > 0 && *(volatile char *)shared == 'w');
    succeeds("munmap", CALL3(MUNMAP, shared, 4096, 0));
    close(fd);
    succeeds("mmap.outlives-descriptor-and-name", unlink("map"));
    holds("mmap.outlives-content", (long)seen > 0 && same(seen + 1, "apped content", 13));
    fd = open("parts", O_WRONLY, 0);
    is("mmap.write-only", map(4096, PROT_READ, MAP_SHARED, fd), -EACCES);
    close(fd);
}

static void files(void)
{
    opening();
    reading_and_writing();
    truncating();
    mapping();
}
