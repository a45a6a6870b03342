/* Virtio over MMIO (virtio 1.2, 4.2), version 2 only, with one split queue and one request at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

enum { VIRTIO_ID_BLOCK = 2, VIRTIO_ID_RNG = 4, VIRTIO_ID_9P = 9 };

#define QUEUE_SIZE 8 /* a power of two (2.7); a block request takes 3 descriptors */

struct virtq_desc { /* 2.7.5 */
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct virtq_avail { /* 2.7.6 */
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[QUEUE_SIZE];
};

struct virtq_used_elem {
    uint32_t id;
    uint32_t len;
};

struct virtq_used { /* 2.7.8 */
    uint16_t flags;
    uint16_t idx;
    struct virtq_used_elem ring[QUEUE_SIZE];
};

struct virtio_device {
    const char *name;
    uintptr_t base;
    unsigned irq;
    uint64_t wanted;   /* features the driver knows */
    uint64_t features; /* features negotiated */
    bool live;         /* false before the first start and after a failure: the next request starts the device again */
    uint16_t last_used;
    volatile bool done;           /* set by the interrupt that brought the answer */
    volatile bool config_changed; /* since virtio_start */
    struct virtq_used_elem answer;
    _Alignas(16) volatile struct virtq_desc desc[QUEUE_SIZE];
    _Alignas(2) volatile struct virtq_avail avail;
    _Alignas(4) volatile struct virtq_used used;
};

struct virtio_buffer {
    void *data;
    uint32_t size;
    bool device_writes;
};

/* The device ID in a slot, 0 if it is empty, and a remark if it is of a version not known here. */
uint32_t virtio_probe(uintptr_t base);

/* The first slot, by address, with a device of that ID, started; false if there is none. */
bool virtio_find(struct virtio_device *device, const struct board *board, uint32_t id, const char *name, uint64_t wanted);

/* These answer NULL, or what went wrong. `written` is the number of bytes the device wrote. */
const char *virtio_start(struct virtio_device *device);
const char *virtio_request(struct virtio_device *device, const struct virtio_buffer *buffers, unsigned count,
                           uint32_t *written);

/* A 64-bit field of the configuration space, read in one piece (4.2.2.2). */
uint64_t virtio_config64(const struct virtio_device *device, unsigned offset);
