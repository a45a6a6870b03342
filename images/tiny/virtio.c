#include "virtio.h"

#include "arch.h"
#include "bytes.h"
#include "irq.h"
#include "timer.h"
#include "virtio_registers.h"

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64, FAILED = 128 }; /* 2.1 */
enum { DESC_NEXT = 1, DESC_WRITE = 2, INTERRUPT_USED = 1, INTERRUPT_CONFIG = 2 };

#define VERSION_1 (1ull << 32)
#define RESET_READS 1000      /* a reset takes no time on any emulator; 4.2.3.1 asks to read until 0 */
#define ANSWER_LIMIT_MS 30000 /* a busy host's disk takes seconds, a lost interrupt for ever */

static void set_address(uintptr_t base, unsigned reg, const volatile void *pointer)
{
    uint64_t address = arch_dma_address((const void *)pointer);
    set(base, reg, (uint32_t)address);
    set(base, reg + 4, (uint32_t)(address >> 32));
}

uint32_t virtio_probe(uintptr_t base)
{
    return get(base, MagicValue) == MAGIC && get(base, Version) == VERSION ? get(base, DeviceID) : 0;
}

static void interrupt(void *context)
{
    struct virtio_device *device = context;
    uint32_t status = get(device->base, InterruptStatus);
    set(device->base, InterruptACK, status);
    if (status & INTERRUPT_CONFIG)
        device->config_changed = true;
    if (!(status & INTERRUPT_USED) || device->last_used == le16(device->used.idx))
        return;
    arch_barrier(); /* the element is read after the index that announces it */
    const volatile struct virtq_used_elem *element = &device->used.ring[device->last_used++ % QUEUE_SIZE];
    device->answer = (struct virtq_used_elem){ .id = le32(element->id), .len = le32(element->len) };
    device->done = true;
}

bool virtio_find(struct virtio_device *device, const struct board *board, uint32_t id, const char *name, uint64_t wanted)
{
    for (unsigned at = 0; at < board->slot_count; at++)
        if (virtio_probe(board->slots[at].base) == id) {
            device->name = name;
            device->base = board->slots[at].base;
            device->irq = board->slots[at].irq;
            device->wanted = wanted | VERSION_1;
            irq_register(device->irq, name, interrupt, device);
            return true;
        }
    return false;
}

const char *virtio_start(struct virtio_device *device)
{
    uintptr_t base = device->base;
    device->live = false;
    set(base, Status, 0);
    for (unsigned reads = 0; get(base, Status); reads++)
        if (reads == RESET_READS)
            return "device does not reset";
    set(base, Status, ACKNOWLEDGE | DRIVER);

    set(base, DeviceFeaturesSel, 0);
    device->features = get(base, DeviceFeatures);
    set(base, DeviceFeaturesSel, 1);
    device->features |= (uint64_t)get(base, DeviceFeatures) << 32;
    device->features &= device->wanted;
    set(base, DriverFeaturesSel, 0);
    set(base, DriverFeatures, (uint32_t)device->features);
    set(base, DriverFeaturesSel, 1);
    set(base, DriverFeatures, (uint32_t)(device->features >> 32));
    set(base, Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(device->features & VERSION_1) || !(get(base, Status) & FEATURES_OK)) {
        set(base, Status, FAILED);
        return "device refuses the features";
    }

    set(base, QueueSel, 0);
    if (get(base, QueueReady) || get(base, QueueNumMax) < QUEUE_SIZE) {
        set(base, Status, FAILED);
        return "device has no usable queue";
    }
    device->last_used = 0;
    device->config_changed = false;
    device->avail.flags = device->avail.idx = 0;
    device->used.flags = device->used.idx = 0;
    set(base, QueueNum, QUEUE_SIZE);
    set_address(base, QueueDesc, device->desc);
    set_address(base, QueueDriver, &device->avail);
    set_address(base, QueueDevice, &device->used);
    set(base, QueueReady, 1);
    set(base, Status, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    device->live = true;
    return NULL;
}

static const char *wait_for_answer(struct virtio_device *device)
{
    timer_once(ANSWER_LIMIT_MS);
    arch_irq_off();
    while (!device->done && !timer_fired())
        arch_irq_wait();
    arch_irq_on();
    timer_stop();
    if (device->done)
        return NULL;
    if (get(device->base, Status) & NEEDS_RESET)
        return "device needs a reset";
    return device->last_used == le16(device->used.idx) ? "no answer in 30 s" : "answer without an interrupt";
}

const char *virtio_request(struct virtio_device *device, const struct virtio_buffer *buffers, unsigned count,
                           uint32_t *written)
{
    const char *error = device->live ? NULL : virtio_start(device);
    if (error)
        return error;
    uint32_t writable = 0;
    for (unsigned at = 0; at < count; at++) {
        unsigned flags = (at + 1 < count ? DESC_NEXT : 0) | (buffers[at].device_writes ? DESC_WRITE : 0);
        writable += buffers[at].device_writes ? buffers[at].size : 0;
        device->desc[at].addr = le64(arch_dma_address(buffers[at].data));
        device->desc[at].len = le32(buffers[at].size);
        device->desc[at].flags = le16((uint16_t)flags);
        device->desc[at].next = le16((uint16_t)(at + 1));
    }
    uint16_t idx = le16(device->avail.idx);
    device->avail.ring[idx % QUEUE_SIZE] = le16(0);
    device->done = false;
    arch_barrier(); /* 2.7.13.3: the ring is written before the index */
    device->avail.idx = le16((uint16_t)(idx + 1));
    set(device->base, QueueNotify, 0);

    error = wait_for_answer(device);
    if (!error && (device->answer.id != 0 || device->answer.len > writable))
        error = "device answered what was not asked";
    device->live = !error; /* buffers may still be the device's: only a reset takes them back */
    arch_barrier();
    *written = device->answer.len;
    return error;
}

uint64_t virtio_config64(const struct virtio_device *device, unsigned offset)
{
    for (;;) {
        uint32_t generation = get(device->base, ConfigGeneration);
        uint64_t value = get(device->base, Config + offset);
        value |= (uint64_t)get(device->base, Config + offset + 4) << 32;
        if (get(device->base, ConfigGeneration) == generation)
            return value;
    }
}
