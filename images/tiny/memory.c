#include "memory.h"

#include "console.h"
#include "stream.h"
#include "timer.h"

static uint64_t *region, free_bytes;

void memory_init(const struct board *board)
{
    region = (uint64_t *)board->free_base;
    free_bytes = board->free_end - board->free_base;
}

uint64_t memory_size(uint64_t mib)
{
    if (!mib)
        return free_bytes < MEMORY_DEFAULT ? free_bytes : MEMORY_DEFAULT;
    return mib <= free_bytes >> 20 ? mib << 20 : 0;
}

void memory_fill(uint64_t seed, uint64_t bytes)
{
    uint64_t state = stream_start(seed);
    for (uint64_t at = 0; at < bytes / sizeof *region; at++)
        region[at] = stream_next(&state);
    print("mem filled %llu seed %llu\n", (unsigned long long)bytes, (unsigned long long)seed);
}

static bool bad(const uint64_t *at, uint64_t want, uint64_t got)
{
    print("mem BAD at 0x%llx want 0x%016llx got 0x%016llx\n", (unsigned long long)(uintptr_t)at, (unsigned long long)want,
          (unsigned long long)got);
    return false;
}

bool memory_check(uint64_t seed, uint64_t bytes)
{
    uint64_t state = stream_start(seed);
    for (uint64_t at = 0; at < bytes / sizeof *region; at++) {
        uint64_t want = stream_next(&state), got = region[at];
        if (got != want)
            return bad(&region[at], want, got);
    }
    print("mem ok %llu\n", (unsigned long long)bytes);
    return true;
}

static bool replace(uint64_t old_seed, uint64_t new_seed, uint64_t bytes)
{
    uint64_t old_state = stream_start(old_seed), new_state = stream_start(new_seed);
    for (uint64_t at = 0; at < bytes / sizeof *region; at++) {
        uint64_t want = stream_next(&old_state), got = region[at];
        if (got != want)
            return bad(&region[at], want, got);
        region[at] = stream_next(&new_state);
    }
    return true;
}

bool memory_churn(uint64_t seed, uint64_t seconds, uint64_t bytes)
{
    uint64_t passes = 0, now = timer_ms(), end = now + seconds * 1000, told = now;
    memory_fill(seed, bytes);
    for (; now < end && !console_cancelled(); now = timer_ms()) {
        if (!replace(seed + passes, seed + passes + 1, bytes))
            return false;
        passes++;
        if (now - told >= 1000) {
            told = now;
            print("mem churn %llu\n", (unsigned long long)passes);
        }
    }
    print("mem churn done %llu\n", (unsigned long long)passes);
    return memory_check(seed + passes, bytes);
}

void memory_report(void)
{
    print("mem_base=0x%llx\n", (unsigned long long)(uintptr_t)region);
    print("mem_bytes=%llu\n", (unsigned long long)free_bytes);
}
