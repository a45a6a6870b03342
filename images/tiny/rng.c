#include "rng.h"

#include "console.h"
#include "virtio.h"

static struct virtio_device device;
static bool present;

void rng_init(const struct board *board)
{
    present = virtio_find(&device, board, VIRTIO_ID_RNG, "virtio-rng", 0);
    const char *error = present ? virtio_start(&device) : NULL;
    if (error)
        print("error: rng: %s\n", error);
}

const char *rng_read(uint8_t *data, uint32_t size)
{
    if (!present)
        return "no virtio-rng device";
    while (size) {
        struct virtio_buffer buffer = { data, size, true };
        uint32_t written;
        const char *error = virtio_request(&device, &buffer, 1, &written);
        if (error)
            return error;
        if (!written)
            return "device wrote nothing"; /* 5.4.6.1: it places at least one byte */
        data += written;
        size -= written;
    }
    return NULL;
}

void rng_report(void)
{
    if (present)
        print("rng=0x%llx\nrng_irq=%u\nrng_features=0x%llx\n", (unsigned long long)device.base, device.irq,
              (unsigned long long)device.features);
    else
        print("rng=none\n");
}
