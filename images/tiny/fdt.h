/* A reader of flattened device trees (Devicetree Specification 0.4, chapter 5), as far as finding devices needs it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "board.h"

struct fdt_node {
    const uint8_t *tree;
    const char *name;
    const uint8_t *properties;
    const struct fdt_node *parent;
    unsigned address_cells; /* of its own `reg`, that is the parent's #address-cells */
    unsigned size_cells;
};

typedef void fdt_visitor(const struct fdt_node *node, void *context);

/* Calls `visit` for every node, parents first. False, and no call, if there is no device tree at `tree`. */
bool fdt_walk(const void *tree, fdt_visitor *visit, void *context);

/* A property's bytes, or NULL. */
const uint8_t *fdt_property(const struct fdt_node *node, const char *name, uint32_t *size);

/* A property of one cell, or `fallback`. */
uint32_t fdt_cell(const struct fdt_node *node, const char *name, uint32_t fallback);

bool fdt_compatible(const struct fdt_node *node, const char *name);

/* The first address range of `reg`; false if there is none. */
bool fdt_reg(const struct fdt_node *node, uintptr_t *base, uintptr_t *size);

/* Fills in console, virtio slots, RAM, free RAM and boot arguments; timer_hz from /cpus/timebase-frequency if it is there. */
bool fdt_discover(const void *tree, struct board *board);
