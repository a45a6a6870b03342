/* Byte swaps that a compiler calls where the CPU has no instruction for them, as in libgcc. */
#include <stdint.h>

uint32_t __bswapsi2(uint32_t value);
uint64_t __bswapdi2(uint64_t value);

uint32_t __bswapsi2(uint32_t value)
{
    return value >> 24 | (value >> 8 & 0xFF00) | (value & 0xFF00) << 8 | value << 24;
}

uint64_t __bswapdi2(uint64_t value)
{
    return (uint64_t)__bswapsi2((uint32_t)value) << 32 | __bswapsi2((uint32_t)(value >> 32));
}
