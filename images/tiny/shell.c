#include "shell.h"

#include "arch.h"
#include "blk.h"
#include "bytes.h"
#include "console.h"
#include "irq.h"
#include "journal.h"
#include "memory.h"
#include "p9.h"
#include "rng.h"
#include "stream.h"
#include "timer.h"
#include "virtio.h"

#define LINE_SIZE 128
#define MAX_WORDS 6
#define TICK_MS 10
#define MAX_SLEEP_MS 86400000 /* a day; also bounds products of milliseconds and timer rate */
#define MAX_SECONDS 86400

static const struct board *board;
static uint64_t boots;

/* Answers false if the words are no use of the command. Numbers are unsigned, decimal or 0x. */
typedef bool command(const char *const *words, unsigned count);

static bool number(const char *word, uint64_t limit, uint64_t *value)
{
    unsigned base = word[0] == '0' && word[1] == 'x' ? 16 : 10;
    *value = 0;
    for (word += base == 16 ? 2 : 0; *word; word++) {
        unsigned digit = *word >= 'a' ? (unsigned)(*word - 'a') + 10 : (unsigned)(*word - '0');
        if (digit >= base || (*word > '9' && *word < 'a') || *value > (limit - digit) / base)
            return false;
        *value = *value * base + digit;
    }
    return word[-1] != 'x';
}

static bool optional(const char *const *words, unsigned count, unsigned at, uint64_t *value)
{
    *value = 0;
    return count <= at || number(words[at], UINT64_MAX, value);
}

/* True, since the command itself was understood. */
static bool report(const char *name, const char *error)
{
    if (error)
        print("error: %s: %s\n", name, error);
    return true;
}

static bool do_info(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    print("isa=%s\n", arch_name);
    print("boots=%llu\n", (unsigned long long)boots);
    print("time_ms=%llu\n", (unsigned long long)timer_ms());
    print("timer_hz=%llu\n", (unsigned long long)board->timer_hz);
    print("ram_base=0x%llx\n", (unsigned long long)board->ram_base);
    print("ram_bytes=%llu\n", (unsigned long long)(board->ram_end - board->ram_base));
    memory_report();
    print("uart=0x%llx\nuart_irq=%u\n", (unsigned long long)board->uart_base, board->uart_irq);
    for (unsigned at = 0; at < board->slot_count; at++) {
        uint32_t id = virtio_probe(board->slots[at].base);
        if (id)
            print("virtio%u=0x%llx id %u irq %u\n", at, (unsigned long long)board->slots[at].base, id, board->slots[at].irq);
    }
    blk_report();
    rng_report();
    p9_report();
    print("bootargs=%s\n", board->bootargs);
    return true;
}

static bool do_tick(const char *const *words, unsigned count)
{
    uint64_t ticks;
    if (count != 2 || !number(words[1], UINT64_MAX, &ticks))
        return false;
    timer_every(TICK_MS);
    for (uint64_t done = 0; done < ticks && !console_cancelled();) {
        arch_irq_off();
        while (timer_fired() == done && !console_cancelled())
            arch_irq_wait();
        arch_irq_on();
        if (timer_fired() > done)
            print("tick %llu\n", (unsigned long long)++done);
    }
    timer_stop();
    return true;
}

static bool do_mem(const char *const *words, unsigned count)
{
    uint64_t seed, seconds = 0, mib;
    bool churn = count > 1 && !strcmp(words[1], "churn");
    unsigned fixed = churn ? 4 : 3;
    if (count < fixed || count > fixed + 1 || !number(words[2], UINT64_MAX, &seed) || !optional(words, count, fixed, &mib))
        return false;
    if (churn && !number(words[3], MAX_SECONDS, &seconds))
        return false;
    uint64_t bytes = memory_size(mib);
    if (!bytes)
        return report("mem", "not that much free memory");
    if (churn)
        memory_churn(seed, seconds, bytes);
    else if (!strcmp(words[1], "fill"))
        memory_fill(seed, bytes);
    else if (!strcmp(words[1], "check"))
        memory_check(seed, bytes);
    else
        return false;
    return true;
}

static void show_sector(uint64_t sector, const uint8_t *data)
{
    print("blk sector %llu crc32 %08x head ", (unsigned long long)sector, crc32(0, data, SECTOR_SIZE));
    for (unsigned at = 0; at < 16; at++)
        print("%02x", data[at]);
    print("\n");
}

static bool do_blk(const char *const *words, unsigned count)
{
    static _Alignas(8) uint8_t data[SECTOR_SIZE];
    uint64_t first, second;
    if (count < 3 || count > 4 || !number(words[2], UINT64_MAX, &first) || !optional(words, count, 3, &second))
        return false;
    const char *error;
    if (!strcmp(words[1], "journal"))
        return report("blk", journal_append(first, second));
    if (!strcmp(words[1], "read") && count == 3) {
        error = blk_read(first, data, 1);
    } else if (!strcmp(words[1], "write") && count == 4) {
        uint64_t state = stream_start(second);
        for (unsigned at = 0; at < SECTOR_SIZE; at += sizeof state) {
            uint64_t word = le64(stream_next(&state));
            memcpy(data + at, &word, sizeof word);
        }
        error = blk_write(first, data, 1);
        if (!error)
            error = blk_flush();
    } else {
        return false;
    }
    if (!error)
        show_sector(first, data);
    return report("blk", error);
}

static bool do_9p(const char *const *words, unsigned count)
{
    const char *path = count > 2 ? words[2] : "";
    if (count == 4 && !strcmp(words[1], "put"))
        return report("9p", p9_put(path, words[3]));
    if (count == 2 && !strcmp(words[1], "umount"))
        return report("9p", p9_umount());
    if (count == 3 && !strcmp(words[1], "cat"))
        return report("9p", p9_show(path));
    if (count == 3 && !strcmp(words[1], "rm"))
        return report("9p", p9_remove(path));
    if ((count == 2 || count == 3) && !strcmp(words[1], "ls"))
        return report("9p", p9_list(path));
    if ((count == 2 || count == 3) && !strcmp(words[1], "stat"))
        return report("9p", p9_stat(path));
    return false;
}

static bool do_rand(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    static uint8_t data[16];
    const char *error = rng_read(data, sizeof data);
    if (error)
        return report("rand", error);
    print("rand ");
    for (unsigned at = 0; at < sizeof data; at++)
        print("%02x", data[at]);
    print("\n");
    return true;
}

static bool do_sleep(const char *const *words, unsigned count)
{
    uint64_t ms;
    if (count != 2 || !number(words[1], MAX_SLEEP_MS, &ms))
        return false;
    uint64_t start = timer_ns();
    timer_once(ms);
    arch_irq_off();
    while (!timer_fired() && !console_cancelled())
        arch_irq_wait();
    arch_irq_on();
    timer_stop();
    print("slept %llu ms\n", (unsigned long long)((timer_ns() - start) / 1000000));
    return true;
}

static bool do_irq(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    irq_report();
    return true;
}

static bool do_off(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    arch_power(POWER_OFF);
    return report("off", "the machine has no power-off");
}

static bool do_reboot(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    arch_power(POWER_REBOOT);
    return report("reboot", "the machine has no reset");
}

static command do_help;

static const struct {
    const char *name;
    bool takes_words;
    command *run;
    const char *usage;
} commands[] = {
    { "help", false, do_help, "help                           this list; ^C stops a command" },
    { "info", false, do_info, "info                           the machine, key=value" },
    { "tick", true, do_tick, "tick N                         N lines, one per 10 ms timer interrupt" },
    { "mem", true, do_mem, "mem fill SEED [MIB]            fill free RAM, at most 256 MiB unless told\n"
                           "mem check SEED [MIB]           check what fill left\n"
                           "mem churn SEED SECONDS [MIB]   check and refill over and over" },
    { "blk", true, do_blk, "blk read SECTOR                read a sector, show its CRC-32 and first bytes\n"
                           "blk write SECTOR SEED          fill a sector, durably\n"
                           "blk journal N [START]          append N records, or cut back to START first" },
    { "9p", true, do_9p, "9p ls [PATH]                   names in a shared directory\n"
                         "9p cat PATH                    a file's bytes, their number and CRC-32\n"
                         "9p put PATH WORD               make a file, or replace what is in it\n"
                         "9p rm PATH                     remove a file or an empty directory\n"
                         "9p stat [PATH]                 type, mode, owner, size, time of the last change\n"
                         "9p umount                      give the share back, which the first use mounts" },
    { "rand", false, do_rand, "rand                           16 bytes of virtio-rng" },
    { "sleep", true, do_sleep, "sleep MS                       wait for an interrupt until the time passed" },
    { "irq", false, do_irq, "irq                            interrupts so far, source=count" },
    { "off", false, do_off, "off                            power off" },
    { "reboot", false, do_reboot, "reboot                         start again; RAM is kept" },
};

#define COMMANDS (sizeof commands / sizeof commands[0])

static bool do_help(const char *const *words, unsigned count)
{
    (void)words, (void)count;
    for (unsigned at = 0; at < COMMANDS; at++)
        print("%s\n", commands[at].usage);
    return true;
}

/* Cuts `line` into words in place; one word more than MAX_WORDS is kept as a part of the last, which no command takes. */
static unsigned split(char *line, const char **words)
{
    unsigned count = 0;
    while (count < MAX_WORDS) {
        while (*line == ' ')
            line++;
        if (!*line)
            break;
        words[count++] = line;
        while (*line && *line != ' ')
            line++;
        if (*line)
            *line++ = '\0';
    }
    return count;
}

static bool run(const char *const *words, unsigned count)
{
    for (unsigned at = 0; at < COMMANDS; at++)
        if (!strcmp(words[0], commands[at].name))
            return (commands[at].takes_words || count == 1) && commands[at].run(words, count);
    return false;
}

_Noreturn void shell(const struct board *the_board, uint64_t the_boots)
{
    char line[LINE_SIZE];
    const char *words[MAX_WORDS];
    board = the_board;
    boots = the_boots;
    for (;;) {
        print("tiny> ");
        console_read_line(line, sizeof line);
        unsigned count = split(line, words);
        if (count && !run(words, count))
            print("? help\n");
    }
}
