#include "blk.h"

#include "bytes.h"
#include "console.h"
#include "virtio.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 }; /* 5.2.6 */
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_UNSET = 0xFF };

#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define ID_SIZE 20

struct request {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

static struct virtio_device device;
static bool present;
static uint64_t capacity;

void blk_init(const struct board *board)
{
    present = virtio_find(&device, board, VIRTIO_ID_BLOCK, "virtio-blk", F_RO | F_FLUSH);
    const char *error = present ? virtio_start(&device) : NULL;
    if (error)
        print("error: blk: %s\n", error);
    if (present)
        capacity = virtio_config64(&device, 0);
}

const char *blk_missing(void) { return present ? NULL : "no virtio-blk device"; }

uint64_t blk_capacity(void)
{
    if (device.config_changed) {
        device.config_changed = false;
        capacity = virtio_config64(&device, 0);
    }
    return capacity;
}

static const char *ask(uint32_t type, uint64_t sector, void *data, uint32_t size, bool device_writes)
{
    static struct request request;
    static volatile uint8_t status;
    if (!present)
        return blk_missing();
    request = (struct request){ .type = le32(type), .sector = le64(sector) };
    status = S_UNSET;
    struct virtio_buffer buffers[3] = { { &request, sizeof request, false } };
    unsigned count = 1;
    if (size)
        buffers[count++] = (struct virtio_buffer){ data, size, device_writes };
    buffers[count++] = (struct virtio_buffer){ (void *)&status, 1, true };

    uint32_t written;
    const char *error = virtio_request(&device, buffers, count, &written);
    if (error)
        return error;
    switch (status) {
    case S_OK:
        return written == (device_writes ? size : 0) + 1 ? NULL : "device tells a wrong length";
    case S_IOERR:
        return "input/output error";
    case S_UNSUPP:
        return "unsupported request";
    default:
        return "undefined status";
    }
}

const char *blk_read(uint64_t sector, void *data, unsigned count)
{
    return ask(T_IN, sector, data, count * SECTOR_SIZE, true);
}

const char *blk_write(uint64_t sector, const void *data, unsigned count)
{
    return ask(T_OUT, sector, (void *)data, count * SECTOR_SIZE, false);
}

const char *blk_flush(void)
{
    return present && !(device.features & F_FLUSH) ? NULL : ask(T_FLUSH, 0, NULL, 0, false);
}

void blk_report(void)
{
    static char serial[ID_SIZE + 1];
    if (!present) {
        print("blk=none\n");
        return;
    }
    print("blk=0x%llx\n", (unsigned long long)device.base);
    print("blk_irq=%u\n", device.irq);
    print("blk_sectors=%llu\n", (unsigned long long)blk_capacity());
    print("blk_features=0x%llx\n", (unsigned long long)device.features);
    print("blk_readonly=%u\n", device.features & F_RO ? 1 : 0);
    print("blk_flush=%u\n", device.features & F_FLUSH ? 1 : 0);
    const char *error = ask(T_GET_ID, 0, serial, ID_SIZE, true);
    print("blk_serial=%s\n", error ? "" : serial);
}
