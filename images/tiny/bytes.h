/* Byte order (virtio 1.x and the journal are little-endian, device trees big-endian), and what a compiler may call. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static inline uint16_t le16(uint16_t value) { return value; }
static inline uint32_t le32(uint32_t value) { return value; }
static inline uint64_t le64(uint64_t value) { return value; }
#else
static inline uint16_t le16(uint16_t value) { return __builtin_bswap16(value); }
static inline uint32_t le32(uint32_t value) { return __builtin_bswap32(value); }
static inline uint64_t le64(uint64_t value) { return __builtin_bswap64(value); }
#endif

/* Read byte by byte: the compiler's byte swap would be a call into libgcc, which some ports do without. */
static inline uint32_t be32_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strnlen(const char *text, size_t limit);
int strcmp(const char *left, const char *right);

/* CRC-32 as in IEEE 802.3 and zlib; start with `crc` 0. */
uint32_t crc32(uint32_t crc, const void *data, size_t size);
