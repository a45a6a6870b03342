/* Tests of free RAM with seeded contents. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

void memory_init(const struct board *board);

/* The bytes a test of `mib` MiB uses, from the start of free RAM; 0 MiB is all up to MEMORY_DEFAULT; 0 if there is less. */
#define MEMORY_DEFAULT (256u << 20) /* one second at the least on an emulator */
uint64_t memory_size(uint64_t mib);

void memory_fill(uint64_t seed, uint64_t bytes);
bool memory_check(uint64_t seed, uint64_t bytes);

/* Checks the contents and replaces them by those of the next seed, word by word, over and over for `seconds`. */
bool memory_churn(uint64_t seed, uint64_t seconds, uint64_t bytes);

/* Prints mem_...=value lines. */
void memory_report(void);
