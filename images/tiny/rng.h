/* The entropy source: the first virtio-rng device (virtio 1.2, 5.4). */
#pragma once

#include <stdint.h>

#include "board.h"

void rng_init(const struct board *board);

/* Fills `data`, in memory that devices reach; NULL, or what went wrong. */
const char *rng_read(uint8_t *data, uint32_t size);

/* Prints rng_...=value lines. */
void rng_report(void);
