/* Names: link, unlink, rename, directories, symbolic links, and what stat(2) tells of them. */

static void unlinking(void)
{
    put("gone", "still here");
    fd = open("gone", O_RDWR, 0);
    succeeds("unlink", unlink("gone"));
    is("unlink.name", error_of_stat("gone"), -ENOENT);
    is("unlink.again", unlink("gone"), -ENOENT);
    is("unlink.open-links", fstat(fd).nlink, 0);
    is("unlink.open-size", (long)fstat(fd).size, 10);
    is("unlink.open-reads", read(fd, buffer, 20), 10);
    holds("unlink.open-content", same(buffer, "still here", 10));
    is("unlink.open-writes", pwrite(fd, "S", 1, 0), 1);
    succeeds("unlink.open-truncates", ftruncate(fd, 3));
    is("unlink.open-new-size", (long)fstat(fd).size, 3);
    put("gone", "another");
    holds("unlink.name-again", has("gone", "another"));
    is("unlink.open-is-another", pread(fd, buffer, 10, 0), 3);
    close(fd);
    is("unlink.directory", unlink("dir"), -EISDIR);
    is("unlink.trailing-slash", unlink("gone/"), -ENOTDIR);
    is("unlink.file-as-prefix", unlink("gone/x"), -ENOTDIR);
    symlink("gone", "to-gone");
    succeeds("unlink.link", unlink("to-gone"));
    holds("unlink.link-leaves-target", has("gone", "another"));
}

static void directories(void)
{
    succeeds("mkdir", mkdir("d", 0777));
    is("mkdir.mode", stat("d").mode, S_IFDIR | 0755);
    is("mkdir.existing", mkdir("d", 0777), -EEXIST);
    is("mkdir.over-file", mkdir("gone", 0777), -EEXIST);
    is("mkdir.over-link", (symlink("none", "to-none"), mkdir("to-none", 0777)), -EEXIST);
    is("mkdir.in-missing", mkdir("none/x", 0777), -ENOENT);
    is("mkdir.in-file", mkdir("gone/x", 0777), -ENOTDIR);
    succeeds("mkdir.trailing-slash", mkdir("d/slash/", 0777));
    is("rmdir.not-empty", rmdir("d"), -ENOTEMPTY);
    is("rmdir.dot", rmdir("d/slash/."), -EINVAL);
    is("rmdir.dot-dot", rmdir("d/slash/.."), -ENOTEMPTY);
    succeeds("rmdir", rmdir("d/slash"));
    is("rmdir.again", rmdir("d/slash"), -ENOENT);
    is("rmdir.file", rmdir("gone"), -ENOTDIR);
    is("rmdir.link", (symlink("d", "to-d"), rmdir("to-d")), -ENOTDIR);
    is("stat.dot", (long)stat("d/.").ino, (long)stat("d").ino);
    is("stat.dot-dot", (long)stat("d/..").ino, (long)stat(".").ino);

    succeeds("chdir", chdir("d"));
    put("inside", "x");
    succeeds("chdir.up", chdir(".."));
    holds("chdir.relative", has("d/inside", "x"));
    is("chdir.file", chdir("gone"), -ENOTDIR);
    is("chdir.missing", chdir("none"), -ENOENT);
    fd = open(".", O_RDONLY, 0);
    chdir("d");
    holds("getcwd", CALL3(GETCWD, buffer, sizeof buffer, 0) > 2 && same(buffer + length(buffer) - 2, "/d", 3));
    succeeds("fchdir", CALL3(FCHDIR, fd, 0, 0));
    holds("fchdir.relative", has("d/inside", "x"));
    close(fd);
    unlink("d/inside");
}

/* How many entries, how many of them with the inode that stat(2) tells; from the descriptor's offset on, and removed if asked. */
static long entries(long directory, long *right, int removing)
{
    static _Alignas(8) char some[1024];
    long found = 0, size;
    *right = 0;
    while ((size = CALL3(GETDENTS, directory, some, sizeof some)) > 0)
        for (long at = 0; at < size; at += ((struct dirent *)(some + at))->size) {
            const struct dirent *entry = (const struct dirent *)(some + at);
            *right += entry->ino == lstat(entry->name).ino;
            found++;
            if (removing && entry->name[0] != '.')
                unlink(entry->name);
        }
    return size < 0 ? size : found;
}

static void listing(void)
{
    char name[] = "n000";
    long right;
    mkdir("many", 0755), chdir("many");
    for (int at = 0; at < MANY; at++) {
        name[1] = (char)('0' + at / 100), name[2] = (char)('0' + at / 10 % 10), name[3] = (char)('0' + at % 10);
        put(name, "");
    }
    fd = open(".", O_RDONLY | O_DIRECTORY, 0);
    is("readdir.entries", entries(fd, &right, 0), MANY + 2);
    is("readdir.inodes", right, MANY + 2);
    is("readdir.at-end", entries(fd, &right, 0), 0);
    put("more", "");
    is("rewinddir", lseek(fd, 0, SEEK_SET), 0);
    is("rewinddir.entries", entries(fd, &right, 0), MANY + 3);
    lseek(fd, 0, SEEK_SET);
    is("readdir.removing", entries(fd, &right, 1), MANY + 3);
    lseek(fd, 0, SEEK_SET);
    is("readdir.removed", entries(fd, &right, 0), 2);
    close(fd);
    fd = open("../gone", O_RDONLY, 0);
    is("readdir.file", entries(fd, &right, 0), -ENOTDIR);
    close(fd);
    chdir("..");
    succeeds("rmdir.emptied", rmdir("many"));
}

static void linking(void)
{
    put("l1", "linked");
    is("link.links-before", stat("l1").nlink, 1);
    succeeds("link", link("l1", "l2"));
    is("link.links", stat("l1").nlink, 2);
    is("link.same-file", (long)stat("l2").ino, (long)stat("l1").ino);
    put("l2", "changed");
    holds("link.same-content", has("l1", "changed"));
    is("link.existing", link("l1", "l2"), -EEXIST);
    is("link.missing", link("none", "l3"), -ENOENT);
    is("link.in-missing", link("l1", "none/x"), -ENOENT);
    is("link.in-file", link("l1", "l2/x"), -ENOTDIR);
    is("link.directory", link("d", "d2"), -EPERM);
    succeeds("link.unlink", unlink("l1"));
    is("link.links-after", stat("l2").nlink, 1);
    holds("link.content-after", has("l2", "changed"));

    succeeds("symlink", symlink("l2", "s"));
    is("symlink.type", lstat("s").mode & S_IFMT, S_IFLNK);
    is("symlink.size", (long)lstat("s").size, 2);
    is("symlink.followed", (long)stat("s").ino, (long)stat("l2").ino);
    is("readlink", readlink("s", buffer, 100), 2);
    holds("readlink.content", same(buffer, "l2", 2));
    is("readlink.cut", readlink("s", buffer, 1), 1);
    is("readlink.file", readlink("l2", buffer, 100), -EINVAL);
    is("readlink.missing", readlink("none", buffer, 100), -ENOENT);
    is("symlink.existing", symlink("x", "s"), -EEXIST);
    is("symlink.empty", symlink("", "empty"), -ENOENT);
    is("symlink.in-missing", symlink("x", "none/s"), -ENOENT);
    for (int at = 0; at < 1000; at++)
        buffer[at] = 't';
    buffer[1000] = '\0';
    succeeds("symlink.long", symlink(buffer, "long"));
    is("readlink.long", readlink("long", other, sizeof other), 1000);
    holds("readlink.long-content", same(buffer, other, 1000));
    succeeds("symlink.into-directory", symlink("../l2", "d/up"));
    holds("symlink.relative-to-its-place", has("d/up", "changed"));
    unlink("d/up");
    succeeds("linkat.link-itself", link_at("s", "s2", 0));
    is("linkat.link-type", lstat("s2").mode & S_IFMT, S_IFLNK);
    succeeds("linkat.follow", link_at("s", "s3", AT_SYMLINK_FOLLOW));
    is("linkat.follow-type", lstat("s3").mode & S_IFMT, S_IFREG);
}

static void renaming(void)
{
    put("r1", "one");
    put("r2", "two");
    long inode = (long)stat("r1").ino;
    fd = open("r2", O_RDONLY, 0);
    succeeds("rename.over-file", rename("r1", "r2"));
    is("rename.old-name", error_of_stat("r1"), -ENOENT);
    is("rename.same-file", (long)stat("r2").ino, inode);
    holds("rename.content", has("r2", "one"));
    is("rename.replaced-links", fstat(fd).nlink, 0);
    is("rename.replaced-reads", read(fd, buffer, 10), 3);
    close(fd);
    succeeds("rename.to-itself", rename("r2", "r2"));
    link("r2", "r3");
    succeeds("rename.over-own-link", rename("r2", "r3"));
    is("rename.own-link-stays", (long)stat("r2").ino, inode);
    is("rename.missing", rename("none", "r4"), -ENOENT);
    is("rename.to-missing", rename("r2", "none/x"), -ENOENT);
    is("rename.in-file", rename("r2", "r3/x"), -ENOTDIR);
    mkdir("rd", 0755), mkdir("re", 0755), mkdir("rd/sub", 0755), put("rd/file", "deep");
    is("rename.directory-over-file", rename("rd", "r2"), -ENOTDIR);
    is("rename.file-over-directory", rename("r2", "rd"), -EISDIR);
    is("rename.over-full-directory", rename("re", "rd"), -ENOTEMPTY);
    is("rename.into-itself", rename("rd", "rd/sub/x"), -EINVAL);
    is("rename.trailing-slash", rename("r2", "r5/"), -ENOTDIR);
    is("rename.dot", rename("rd/.", "rf"), -EBUSY);
    fd = open("rd/file", O_RDWR, 0);
    succeeds("rename.over-empty-directory", rename("rd", "re"));
    is("rename.open-file-goes-along", write(fd, "DEEP", 4), 4);
    holds("rename.open-file-content", has("re/file", "DEEP"));
    close(fd);
    succeeds("rename.to-other-directory", rename("re/sub", "sub"));
    is("rename.dot-dot", (long)stat("sub/..").ino, (long)stat(".").ino);
    succeeds("rename.link", rename("s", "s4"));
    is("rename.link-type", lstat("s4").mode & S_IFMT, S_IFLNK);
}

static void telling(void)
{
    is("stat.missing", error_of_stat("none"), -ENOENT);
    is("stat.file-as-prefix", error_of_stat("gone/x"), -ENOTDIR);
    is("stat.loop", error_of_stat("loop"), -ELOOP);
    holds("stat.inode", stat("gone").ino != 0 && stat("gone").ino != stat("l2").ino);
    fd = open("gone", O_RDONLY, 0);
    is("fstat.inode", (long)fstat(fd).ino, (long)stat("gone").ino);
    close(fd);
    is("stat.device", stat("gone").dev_minor, stat("d").dev_minor);
    succeeds("access.exists", access("gone", 0));
    is("access.missing", access("none", 0), -ENOENT);
    is("access.execute", access("gone", 1), -EACCES);
    is("statfs", CALL3(STATFS, ".", buffer, 0), 0);
    is("statfs.longest-name", ((long *)buffer)[8], LONG_NAME);
}

static void names(void)
{
    unlinking();
    directories();
    listing();
    linking();
    renaming();
    telling();
}
