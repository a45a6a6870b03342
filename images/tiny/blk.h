/* The disk: the first virtio-blk device (virtio 1.2, 5.2). Functions answer NULL, or what went wrong. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

#define SECTOR_SIZE 512
#define BLK_BATCH 64 /* sectors a request may have here */

void blk_init(const struct board *board);

/* NULL, or that there is no disk. */
const char *blk_missing(void);

/* Sectors; read again after the device said that it changed. */
uint64_t blk_capacity(void);

/* `data` is in memory that devices reach. Sectors past the end are sent as they are: the device is to refuse them. */
const char *blk_read(uint64_t sector, void *data, unsigned count);
const char *blk_write(uint64_t sector, const void *data, unsigned count);

/* Makes all completed writes durable; without VIRTIO_BLK_F_FLUSH they already are (5.2.6.2). */
const char *blk_flush(void);

/* Prints blk_...=value lines. */
void blk_report(void);
