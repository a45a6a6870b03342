/*
 * A virtio device's registers by the names they have over MMIO (virtio 1.2, 4.2.2). A port whose devices are on PCI is built
 * with VIRTIO_PCI and brings virtio_pci_get and virtio_pci_set, which know the same registers where PCI has them.
 */
#pragma once

#include <stdint.h>

#include "arch.h"
#include "bytes.h"

enum { /* 4.2.2 */
    MagicValue = 0x000,
    Version = 0x004,
    DeviceID = 0x008,
    DeviceFeatures = 0x010,
    DeviceFeaturesSel = 0x014,
    DriverFeatures = 0x020,
    DriverFeaturesSel = 0x024,
    QueueSel = 0x030,
    QueueNumMax = 0x034,
    QueueNum = 0x038,
    QueueReady = 0x044,
    QueueNotify = 0x050,
    InterruptStatus = 0x060,
    InterruptACK = 0x064,
    Status = 0x070,
    QueueDesc = 0x080,
    QueueDriver = 0x090,
    QueueDevice = 0x0A0,
    ConfigGeneration = 0x0FC,
    Config = 0x100,
};

#define MAGIC 0x74726976
#define VERSION 2

#ifdef VIRTIO_PCI
uint32_t virtio_pci_get(uintptr_t base, unsigned reg);
void virtio_pci_set(uintptr_t base, unsigned reg, uint32_t value);

static inline uint32_t get(uintptr_t base, unsigned reg) { return virtio_pci_get(base, reg); }

static inline void set(uintptr_t base, unsigned reg, uint32_t value) { virtio_pci_set(base, reg, value); }
#else
static uint32_t get(uintptr_t base, unsigned reg)
{
    uint32_t value = le32(*(volatile uint32_t *)(base + reg));
    arch_barrier();
    return value;
}

static void set(uintptr_t base, unsigned reg, uint32_t value)
{
    arch_barrier();
    *(volatile uint32_t *)(base + reg) = le32(value);
}
#endif
