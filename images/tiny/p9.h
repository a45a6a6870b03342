/*
 * A host's directory: the first virtio-9p device (virtio 1.2, 5.9) and a client of 9P2000.L (diod's protocol.md).
 * The first function that needs the share attaches to it, and it stays attached until p9_umount. Paths are names joined by
 * slashes, from the share's root. Functions print what their commands answer; they return NULL, or what went wrong.
 */
#pragma once

#include "board.h"

void p9_init(const struct board *board);

/* One line for each name in a directory: its type, as `ls -l` has it, and the name. */
const char *p9_list(const char *path);

/* A file's bytes, and how many with their CRC-32; ^C ends it. What is not printable is shown as `?`, but for newlines. */
const char *p9_show(const char *path);

/* Makes a file of `text`, or replaces what is in it. */
const char *p9_put(const char *path, const char *text);

/* Removes a file, or an empty directory. */
const char *p9_remove(const char *path);

/* Type, mode, owner, size and time of the last change. */
const char *p9_stat(const char *path);

/* Gives everything back; harmless when nothing is attached. */
const char *p9_umount(void);

/* Prints p9_...=value lines. */
void p9_report(void);
