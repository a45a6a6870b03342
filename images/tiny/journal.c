#include "journal.h"

#include "arch.h"
#include "blk.h"
#include "bytes.h"
#include "console.h"
#include "stream.h"
#include "timer.h"

#define FIRST_SECTOR 8 /* record number K lies in sector FIRST_SECTOR + K - 1 */
#define FILLER_WORDS 61

struct record {
    uint8_t magic[4];
    uint32_t crc; /* of the whole record with this field 0 */
    uint64_t number;
    uint64_t time_ns;
    uint64_t filler[FILLER_WORDS]; /* the stream of seed `number` */
};

_Static_assert(sizeof(struct record) == SECTOR_SIZE, "a record is a sector");

static const uint8_t magic[4] = { 'E', 'M', 'U', 'J' };

static void make(struct record *record, uint64_t number)
{
    uint64_t state = stream_start(number);
    memcpy(record->magic, magic, sizeof magic);
    record->crc = 0;
    record->number = le64(number);
    record->time_ns = le64(timer_ns());
    for (unsigned at = 0; at < FILLER_WORDS; at++)
        record->filler[at] = le64(stream_next(&state));
    record->crc = le32(crc32(0, record, sizeof *record));
}

static bool is_record(struct record *record, uint64_t number)
{
    uint32_t crc = le32(record->crc);
    record->crc = 0;
    return !memcmp(record->magic, magic, sizeof magic) && le64(record->number) == number &&
           crc32(0, record, sizeof *record) == crc;
}

/* The number of the last record, 0 if there is none: the disk is asked each time, another machine may have written to it. */
static const char *find_end(uint64_t *last)
{
    static struct record batch[BLK_BATCH];
    for (*last = 0;;) {
        uint64_t sector = FIRST_SECTOR + *last, capacity = blk_capacity();
        if (sector >= capacity)
            return NULL;
        unsigned count = capacity - sector < BLK_BATCH ? (unsigned)(capacity - sector) : BLK_BATCH;
        const char *error = blk_read(sector, batch, count);
        if (error)
            return error;
        for (unsigned at = 0; at < count; at++, ++*last)
            if (!is_record(&batch[at], *last + 1))
                return NULL;
    }
}

/* From the last to the first: cut off at any moment, what is left is a journal. */
static const char *cut_back(uint64_t last, uint64_t start)
{
    static const uint8_t blank[SECTOR_SIZE];
    const char *error = NULL;
    for (; !error && last >= start; last--) {
        error = blk_write(FIRST_SECTOR + last - 1, blank, 1);
        if (!error)
            error = blk_flush();
    }
    return error;
}

const char *journal_append(uint64_t count, uint64_t start)
{
    static struct record record;
    uint64_t last;
    const char *error = blk_missing();
    if (!error)
        error = find_end(&last);
    if (error)
        return error;
    print("journal found %llu\n", (unsigned long long)last);
    if (start > last + 1)
        return "journal ends before START";
    if (start) {
        error = cut_back(last, start);
        last = start - 1;
    }
    while (!error && count-- && !console_cancelled()) {
        if (FIRST_SECTOR + last >= blk_capacity())
            return "journal is full";
        make(&record, ++last);
        error = blk_write(FIRST_SECTOR + last - 1, &record, 1);
        if (!error)
            error = blk_flush();
        if (!error)
            print("journal %llu\n", (unsigned long long)last);
    }
    if (!error)
        print("journal done %llu\n", (unsigned long long)last);
    return error;
}
