#include "fdt.h"

#include "arch.h"
#include "bytes.h"
#include "uart.h"

enum { FDT_MAGIC = 0xD00DFEED, FDT_BEGIN_NODE = 1, FDT_END_NODE, FDT_PROP, FDT_NOP, FDT_END = 9 };
enum { TOTAL_SIZE = 4, OFF_STRUCT = 8, OFF_STRINGS = 12, OFF_RESERVE = 16 }; /* header, 5.2 */

#define MAX_TREE (2u << 20) /* Linux's own limit */
#define MAX_DEPTH 16        /* QEMU's virt boards use 5 */
#define MAX_NAME 64         /* 31 and a unit address, 2.2.1 */

static const uint8_t *align4(const uint8_t *tree, const uint8_t *at)
{
    return tree + (((size_t)(at - tree) + 3) & ~(size_t)3);
}

bool fdt_walk(const void *blob, fdt_visitor *visit, void *context)
{
    const uint8_t *tree = blob;
    if (!tree || be32_at(tree) != FDT_MAGIC || be32_at(tree + TOTAL_SIZE) > MAX_TREE)
        return false;
    const uint8_t *end = tree + be32_at(tree + TOTAL_SIZE);
    const uint8_t *at = tree + be32_at(tree + OFF_STRUCT);
    struct fdt_node path[MAX_DEPTH];
    unsigned depth = 0;

    while (at + 4 <= end) {
        uint32_t token = be32_at(at);
        at += 4;
        if (token == FDT_BEGIN_NODE) {
            if (depth == MAX_DEPTH)
                return false;
            const char *name = (const char *)at;
            at = align4(tree, at + strnlen(name, (size_t)(end - at)) + 1);
            struct fdt_node *node = &path[depth];
            const struct fdt_node *parent = depth ? node - 1 : NULL;
            *node = (struct fdt_node){ .tree = tree, .name = name, .properties = at, .parent = parent };
            node->address_cells = parent ? fdt_cell(parent, "#address-cells", 2) : 2; /* defaults: 2.3.5 */
            node->size_cells = parent ? fdt_cell(parent, "#size-cells", 1) : 1;
            depth++;
            visit(node, context);
        } else if (token == FDT_PROP) {
            at = align4(tree, at + 8 + be32_at(at));
        } else if (token == FDT_END_NODE && depth) {
            depth--;
        } else if (token != FDT_NOP) {
            break;
        }
    }
    return true;
}

const uint8_t *fdt_property(const struct fdt_node *node, const char *name, uint32_t *size)
{
    const uint8_t *tree = node->tree, *at = node->properties;
    const uint8_t *end = tree + be32_at(tree + TOTAL_SIZE);
    const char *strings = (const char *)tree + be32_at(tree + OFF_STRINGS);
    while (at + 12 <= end) {
        uint32_t token = be32_at(at);
        if (token == FDT_NOP) {
            at += 4;
            continue;
        }
        if (token != FDT_PROP)
            break;
        *size = be32_at(at + 4);
        if (*size > (size_t)(end - at) - 12)
            break;
        if (!strcmp(strings + be32_at(at + 8), name))
            return at + 12;
        at = align4(tree, at + 12 + *size);
    }
    *size = 0;
    return NULL;
}

uint32_t fdt_cell(const struct fdt_node *node, const char *name, uint32_t fallback)
{
    uint32_t size;
    const uint8_t *value = fdt_property(node, name, &size);
    return value && size >= 4 ? be32_at(value) : fallback;
}

bool fdt_compatible(const struct fdt_node *node, const char *name)
{
    uint32_t size;
    const char *list = (const char *)fdt_property(node, "compatible", &size);
    for (uint32_t at = 0; list && at < size; at += strnlen(list + at, size - at) + 1)
        if (!strcmp(list + at, name))
            return true;
    return false;
}

static uint64_t cells_at(const uint8_t *value, unsigned cells)
{
    uint64_t number = 0;
    for (; cells; cells--, value += 4)
        number = number << 32 | be32_at(value);
    return number;
}

bool fdt_reg(const struct fdt_node *node, uintptr_t *base, uintptr_t *size)
{
    uint32_t bytes;
    const uint8_t *value = fdt_property(node, "reg", &bytes);
    if (!value || bytes < 4 * (node->address_cells + node->size_cells))
        return false;
    *base = (uintptr_t)cells_at(value, node->address_cells);
    *size = (uintptr_t)cells_at(value + 4 * node->address_cells, node->size_cells);
    return true;
}

static unsigned irq_of(const struct fdt_node *node)
{
    uint32_t size;
    const uint8_t *cells = fdt_property(node, "interrupts", &size);
    return cells ? arch_fdt_irq(cells, size / 4) : 0;
}

static void add_slot(struct board *board, uintptr_t base, unsigned irq)
{
    if (board->slot_count == MAX_VIRTIO_SLOTS)
        return;
    unsigned at = board->slot_count++;
    for (; at && board->slots[at - 1].base > base; at--)
        board->slots[at] = board->slots[at - 1];
    board->slots[at] = (struct virtio_slot){ .base = base, .irq = irq };
}

/* Free RAM is one range from the image's end up: what is reserved above the image ends it. */
static void reserve(struct board *board, uintptr_t base)
{
    if (base >= board->free_base && base < board->free_end)
        board->free_end = base;
}

static void visit_memory(const struct fdt_node *node, void *context)
{
    struct board *board = context;
    uint32_t size_of_type;
    uintptr_t base, size;
    const char *type = (const char *)fdt_property(node, "device_type", &size_of_type);
    if (!type || strcmp(type, "memory") || !fdt_reg(node, &base, &size))
        return;
    if (base > (uintptr_t)image_start || (uintptr_t)image_start - base >= size)
        return; /* a bank without this image */
    board->ram_base = base;
    board->ram_end = base + size;
    board->free_end = board->ram_end;
}

static const struct uart *uart_of(const struct fdt_node *node)
{
    static const struct {
        const char *compatible;
        const struct uart *uart;
    } known[] = { { "ns16550a", &ns16550 }, { "ns16550", &ns16550 }, { "arm,pl011", &pl011 } };
    for (size_t at = 0; at < sizeof known / sizeof *known; at++)
        if (fdt_compatible(node, known[at].compatible))
            return known[at].uart;
    return NULL;
}

static void visit_device(const struct fdt_node *node, void *context)
{
    struct board *board = context;
    uintptr_t base, size;
    uint32_t length;
    bool placed = fdt_reg(node, &base, &size);
    board->timer_hz = fdt_cell(node, "timebase-frequency", (uint32_t)board->timer_hz);
    if (placed && fdt_compatible(node, "virtio,mmio")) {
        add_slot(board, base, irq_of(node));
    } else if (placed && !board->uart && uart_of(node)) {
        board->uart = uart_of(node);
        board->uart_base = base;
        board->uart_shift = fdt_cell(node, "reg-shift", 0);
        board->uart_irq = irq_of(node);
    } else if (placed && node->parent && !strcmp(node->parent->name, "reserved-memory")) {
        reserve(board, base);
    } else if (!strcmp(node->name, "chosen")) {
        const char *arguments = (const char *)fdt_property(node, "bootargs", &length);
        if (arguments)
            memcpy(board->bootargs, arguments, strnlen(arguments, length < MAX_BOOTARGS ? length : MAX_BOOTARGS - 1));
    }
}

bool fdt_discover(const void *blob, struct board *board)
{
    const uint8_t *tree = blob;
    if (!fdt_walk(tree, visit_memory, board) || !board->ram_end)
        return false;
    fdt_walk(tree, visit_device, board);
    const uint8_t *entry = tree + be32_at(tree + OFF_RESERVE); /* pairs of address and size, ended by 0, 0: 5.3 */
    for (; cells_at(entry, 2) || cells_at(entry + 8, 2); entry += 16)
        if (cells_at(entry, 2) != (uintptr_t)tree) /* the tree itself, which is not read again */
            reserve(board, (uintptr_t)cells_at(entry, 2));
    return board->uart != NULL;
}
