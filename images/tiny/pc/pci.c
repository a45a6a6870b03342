/* PCI configuration mechanism 1 (PCI 3.0, 3.2.2.3.2), and virtio's registers over PCI (virtio 1.2, 4.1.4). */
#include "pc.h"

#include "../board.h"
#include "../virtio_registers.h"

enum { CONFIG_ADDRESS = 0xCF8, CONFIG_DATA = 0xCFC, PCI_DEVICES = 32 };
enum { PCI_ID = 0x00, PCI_BAR0 = 0x10, PCI_CAPABILITIES = 0x34, PCI_INTERRUPT = 0x3C };
enum { VIRTIO_VENDOR = 0x1AF4, VIRTIO_DEVICE_BASE = 0x1040, CAP_VENDOR = 0x09 };
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE };
enum { /* 4.1.4.3 */
    CommonDeviceFeatureSelect = 0x00,
    CommonDeviceFeature = 0x04,
    CommonDriverFeatureSelect = 0x08,
    CommonDriverFeature = 0x0C,
    CommonStatus = 0x14,
    CommonGeneration = 0x15,
    CommonQueueSelect = 0x16,
    CommonQueueSize = 0x18,
    CommonQueueEnable = 0x1C,
    CommonQueueDesc = 0x20,
    CommonQueueDriver = 0x28,
    CommonQueueDevice = 0x30,
};

static struct function {
    uintptr_t base;
    uint32_t id;
    uintptr_t region[CAP_DEVICE + 1]; /* by type */
} functions[MAX_VIRTIO_SLOTS];

static uint32_t config(unsigned device, unsigned offset)
{
    out32(CONFIG_ADDRESS, 1u << 31 | device << 11 | offset);
    return in32(CONFIG_DATA);
}

void pci_discover(struct board *board)
{
    for (unsigned device = 0; device < PCI_DEVICES && board->slot_count < MAX_VIRTIO_SLOTS; device++) {
        uint32_t id = config(device, PCI_ID);
        if ((id & 0xFFFF) != VIRTIO_VENDOR || id >> 16 < VIRTIO_DEVICE_BASE)
            continue;
        struct function *function = &functions[board->slot_count];
        function->base = config(device, PCI_BAR0) & ~0xFu;
        function->id = (id >> 16) - VIRTIO_DEVICE_BASE;
        for (unsigned at = config(device, PCI_CAPABILITIES) & 0xFC; at;) {
            uint32_t head = config(device, at); /* id, next, length, type */
            uint32_t type = head >> 24, bar = config(device, at + 4) & 0xFF;
            if ((head & 0xFF) == CAP_VENDOR && type >= CAP_COMMON && type <= CAP_DEVICE && bar == 0)
                function->region[type] = function->base + config(device, at + 8);
            at = head >> 8 & 0xFC;
        }
        board->slots[board->slot_count++] =
            (struct virtio_slot){ .base = function->base, .irq = config(device, PCI_INTERRUPT) & 0xFF };
    }
}

static const struct function *find(uintptr_t base)
{
    const struct function *function = functions;
    while (function->base != base)
        function++;
    return function;
}

static volatile uint8_t *reg8(uintptr_t address) { return (volatile uint8_t *)address; }

static volatile uint16_t *reg16(uintptr_t address) { return (volatile uint16_t *)address; }

static volatile uint32_t *reg32(uintptr_t address) { return (volatile uint32_t *)address; }

uint32_t virtio_pci_get(uintptr_t base, unsigned reg)
{
    const struct function *function = find(base);
    uintptr_t common = function->region[CAP_COMMON];
    if (reg >= Config)
        return *reg32(function->region[CAP_DEVICE] + reg - Config);
    switch (reg) {
    case MagicValue:
        return MAGIC;
    case Version:
        return VERSION;
    case DeviceID:
        return function->id;
    case DeviceFeatures:
        return *reg32(common + CommonDeviceFeature);
    case QueueNumMax:
        return *reg16(common + CommonQueueSize);
    case QueueReady:
        return *reg16(common + CommonQueueEnable);
    case InterruptStatus:
        return *reg8(function->region[CAP_ISR]); /* and acknowledges */
    case Status:
        return *reg8(common + CommonStatus);
    case ConfigGeneration:
        return *reg8(common + CommonGeneration);
    default:
        return 0;
    }
}

void virtio_pci_set(uintptr_t base, unsigned reg, uint32_t value)
{
    const struct function *function = find(base);
    uintptr_t common = function->region[CAP_COMMON];
    switch (reg) {
    case DeviceFeaturesSel:
        *reg32(common + CommonDeviceFeatureSelect) = value;
        break;
    case DriverFeaturesSel:
        *reg32(common + CommonDriverFeatureSelect) = value;
        break;
    case DriverFeatures:
        *reg32(common + CommonDriverFeature) = value;
        break;
    case QueueSel:
        *reg16(common + CommonQueueSelect) = (uint16_t)value;
        break;
    case QueueNum:
        *reg16(common + CommonQueueSize) = (uint16_t)value;
        break;
    case QueueReady:
        *reg16(common + CommonQueueEnable) = (uint16_t)value;
        break;
    case QueueNotify: /* queue 0, whose notification is at the start of the region */
        *reg16(function->region[CAP_NOTIFY]) = (uint16_t)value;
        break;
    case Status:
        *reg8(common + CommonStatus) = (uint8_t)value;
        break;
    case QueueDesc:
    case QueueDesc + 4:
        *reg32(common + CommonQueueDesc + reg - QueueDesc) = value;
        break;
    case QueueDriver:
    case QueueDriver + 4:
        *reg32(common + CommonQueueDriver + reg - QueueDriver) = value;
        break;
    case QueueDevice:
    case QueueDevice + 4:
        *reg32(common + CommonQueueDevice + reg - QueueDevice) = value;
        break;
    }
}
