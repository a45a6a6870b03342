/* The journal: numbered, checksummed records on the disk, each durable before the next is written. README.md has the format. */
#pragma once

#include <stdint.h>

/*
 * Appends `count` records after the last one on the disk, and prints `journal K` when record K is durable. `start`, if
 * not 0, is the number of the first of them: the journal is cut back to the record before it. NULL, or what went wrong.
 */
const char *journal_append(uint64_t count, uint64_t start);
