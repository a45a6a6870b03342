/* The seeded pseudo-random stream of all tests: xorshift64* (Vigna, 2016). A host can compute it: see README.md. */
#pragma once

#include <stdint.h>

/* Any seed gives a state; the one that would give the fixed point 0 gives the constant itself. */
static inline uint64_t stream_start(uint64_t seed)
{
    const uint64_t golden = 0x9E3779B97F4A7C15;
    return seed == golden ? golden : seed ^ golden;
}

static inline uint64_t stream_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1D;
}
