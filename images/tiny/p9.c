#include "p9.h"

#include "bytes.h"
#include "console.h"
#include "virtio.h"

enum { /* of requests; an answer's type is one more */
    ERROR = 6,
    OPEN = 12,
    CREATE = 14,
    GETATTR = 24,
    READDIR = 40,
    VERSION = 100,
    ATTACH = 104,
    WALK = 110,
    READ = 116,
    WRITE = 118,
    CLUNK = 120,
    REMOVE = 122,
};
enum { RDONLY = 0, WRONLY = 01, CREAT = 0100, TRUNC = 01000, DIRECTORY = 0200000 }; /* Linux's, on every CPU */
enum { ROOT, FILE };                                                               /* the fids */

#define NOTHING 0xFFFFFFFF /* no fid, no user */
#define NO_TAG 0xFFFF      /* of VERSION */
#define HEADER 7           /* size[4] type[1] tag[2] */
#define REQUEST_SIZE 512   /* a command's line has 128 bytes */
#define ANSWER_SIZE 4096   /* the least that a server has to take */
#define CHUNK 1024         /* bytes of a file that one READ asks for */
#define MAX_NAMES 16       /* in one WALK */
#define GETATTR_BASIC 0x7FF

static const char protocol[] = "9P2000.L";

static struct virtio_device device;
static bool present, attached;

static uint8_t request[REQUEST_SIZE], answer[ANSWER_SIZE];
static uint32_t request_size, answer_at, answer_size;
static bool cut; /* the answer has ended before what was taken from it */

void p9_init(const struct board *board)
{
    present = virtio_find(&device, board, VIRTIO_ID_9P, "virtio-9p", 0);
    const char *error = present ? virtio_start(&device) : NULL;
    if (error)
        print("error: 9p: %s\n", error);
}

void p9_report(void)
{
    if (present)
        print("p9=0x%llx\np9_irq=%u\np9_attached=%u\n", (unsigned long long)device.base, device.irq, attached);
    else
        print("p9=none\n");
}

/* Messages: numbers of 1 to 8 bytes, little-endian, and strings with two bytes of length before them. */

static void start(void) { request_size = HEADER; }

static void add(uint64_t value, unsigned bytes)
{
    for (; bytes; bytes--, value >>= 8)
        request[request_size++] = (uint8_t)value;
}

static void add_bytes(const char *bytes, size_t size)
{
    memcpy(request + request_size, bytes, size);
    request_size += size;
}

static void add_text(const char *text, size_t size)
{
    add(size, 2);
    add_bytes(text, size);
}

static uint64_t take(unsigned bytes)
{
    uint64_t value = 0;
    cut |= bytes > answer_size - answer_at;
    if (cut)
        return 0;
    for (unsigned at = bytes; at; at--)
        value = value << 8 | answer[answer_at + at - 1];
    answer_at += bytes;
    return value;
}

static const uint8_t *take_bytes(uint32_t size)
{
    const uint8_t *bytes = answer + answer_at;
    cut |= size > answer_size - answer_at;
    if (!cut)
        answer_at += size;
    return bytes;
}

static const char *errno_text(uint64_t code)
{
    static const struct {
        unsigned code;
        const char *text;
    } known[] = {
        { 1, "operation not permitted" },
        { 2, "no such file or directory" },
        { 5, "input/output error" },
        { 13, "permission denied" },
        { 17, "file exists" },
        { 20, "not a directory" },
        { 21, "is a directory" },
        { 22, "invalid argument" },
        { 28, "no space left" },
        { 30, "read-only file system" },
        { 36, "name too long" },
        { 39, "directory not empty" },
        { 40, "symbolic link" },
        { 116, "stale file handle" },
    };
    for (unsigned at = 0; at < sizeof known / sizeof known[0]; at++)
        if (known[at].code == code)
            return known[at].text;
    return "refused by the server";
}

/* Sends what was added and has the answer's fields ready to be taken. Where the device fails, the session is over. */
static const char *ask(unsigned type)
{
    static const char wrong[] = "server answers what was not asked";
    unsigned tag = type == VERSION ? NO_TAG : 0;
    uint32_t size = request_size, written;
    start();
    request_size = 0;
    add(size, 4);
    add(type, 1);
    add(tag, 2);
    struct virtio_buffer buffers[2] = { { request, size, false }, { answer, sizeof answer, true } };
    const char *error = virtio_request(&device, buffers, 2, &written);
    if (error) {
        attached = false;
        return error;
    }
    answer_at = 0;
    answer_size = written;
    cut = false;
    uint64_t told = take(4), kind = take(1);
    if (take(2) != tag || told != written)
        return wrong;
    if (kind == ERROR + 1)
        return errno_text(take(4));
    return kind == type + 1 ? NULL : wrong;
}

static const char *whole(void) { return cut ? "answer is cut short" : NULL; }

static const char *attach(void)
{
    if (!present)
        return "no virtio-9p device";
    if (attached)
        return NULL;
    start();
    add(ANSWER_SIZE, 4);
    add_text(protocol, sizeof protocol - 1);
    const char *error = ask(VERSION);
    if (error)
        return error;
    uint64_t longest = take(4), length = take(2);
    if (longest > ANSWER_SIZE || longest < CHUNK + 2 * HEADER || length != sizeof protocol - 1 ||
        memcmp(take_bytes((uint32_t)length), protocol, sizeof protocol - 1))
        return "server does not speak 9P2000.L";
    start();
    add(ROOT, 4);
    add(NOTHING, 4);
    add_text("root", 4);
    add_text("", 0);
    add(0, 4);
    error = ask(ATTACH);
    attached = !error;
    return error;
}

/* The next name of a path and its length, 0 at the end. */
static size_t next_name(const char **path)
{
    size_t length = 0;
    while (**path == '/')
        ++*path;
    while ((*path)[length] && (*path)[length] != '/')
        length++;
    return length;
}

/* Has FILE stand for a path, but for its last name when that is asked for. */
static const char *walk(const char *path, const char **last, size_t *last_length)
{
    unsigned names = 0;
    const char *error = attach();
    if (error)
        return error;
    start();
    add(ROOT, 4);
    add(FILE, 4);
    uint32_t count_at = request_size;
    add(0, 2);
    for (size_t length = next_name(&path), following; length; length = following) {
        const char *name = path;
        path += length;
        following = next_name(&path);
        if (last && !following) {
            *last = name;
            *last_length = length;
            break;
        }
        if (names == MAX_NAMES)
            return "path has more than 16 names";
        add_text(name, length);
        names++;
    }
    if (last && !*last)
        return "no name";
    request[count_at] = (uint8_t)names;
    error = ask(WALK);
    if (error)
        return error;
    return take(2) == names ? NULL : errno_text(2); /* the walk ended at a name that is not there */
}

static const char *clunk(unsigned fid)
{
    start();
    add(fid, 4);
    return ask(CLUNK);
}

/* Gives FILE back; the answer is the first thing that went wrong. */
static const char *done(const char *error)
{
    const char *at_the_end = clunk(FILE);
    return error ? error : at_the_end;
}

static const char *open(unsigned flags)
{
    start();
    add(FILE, 4);
    add(flags, 4);
    return ask(OPEN);
}

/* READ and READDIR: `size` bytes are there to be taken. */
static const char *read(unsigned type, uint64_t offset, uint32_t *size)
{
    start();
    add(FILE, 4);
    add(offset, 8);
    add(CHUNK, 4);
    const char *error = ask(type);
    *size = error ? 0 : (uint32_t)take(4);
    if (*size > CHUNK || *size > answer_size - answer_at)
        return "answer is cut short";
    return error;
}

static void print_bytes(const uint8_t *bytes, size_t size)
{
    for (; size; size--, bytes++) {
        if (*bytes == '\n')
            print("\n");
        else
            print("%c", *bytes >= ' ' && *bytes < 0x7F ? *bytes : '?');
    }
}

static bool is(const uint8_t *name, size_t size, const char *text) { return size == strnlen(text, 8) && !memcmp(name, text, size); }

static const char *list(void)
{
    uint64_t offset = 0;
    uint32_t size;
    const char *error = open(RDONLY | DIRECTORY);
    while (!error && !(error = read(READDIR, offset, &size)) && size) {
        for (uint32_t end = answer_at + size; !error && answer_at < end; error = whole()) {
            take_bytes(13); /* the qid */
            offset = take(8);
            unsigned type = (unsigned)take(1);
            uint32_t length = (uint32_t)take(2);
            const uint8_t *name = take_bytes(length);
            if (cut || is(name, length, ".") || is(name, length, ".."))
                continue;
            print("%c ", type < 16 ? "?pc?d?b?-?l?s???"[type] : '?'); /* readdir(3)'s DT_ */
            print_bytes(name, length);
            print("\n");
        }
    }
    return error;
}

const char *p9_list(const char *path)
{
    const char *error = walk(path, NULL, NULL);
    return error ? error : done(list());
}

static const char *show(void)
{
    uint64_t offset = 0;
    uint32_t size, crc = 0;
    uint8_t end = '\n';
    const char *error = open(RDONLY);
    while (!error && !console_cancelled() && !(error = read(READ, offset, &size)) && size) {
        const uint8_t *bytes = take_bytes(size);
        print_bytes(bytes, size);
        crc = crc32(crc, bytes, size);
        end = bytes[size - 1];
        offset += size;
    }
    if (!error)
        print("%s9p cat %llu bytes crc32 %08x\n", end == '\n' ? "" : "\n", (unsigned long long)offset, crc);
    return error;
}

const char *p9_show(const char *path)
{
    const char *error = walk(path, NULL, NULL);
    return error ? error : done(show());
}

static const char *fill(const char *name, size_t length, const char *text)
{
    size_t size = strnlen(text, REQUEST_SIZE / 2);
    start();
    add(FILE, 4);
    add_text(name, length);
    add(WRONLY | CREAT | TRUNC, 4);
    add(0644, 4);
    add(0, 4);
    const char *error = ask(CREATE);
    if (error)
        return error;
    start();
    add(FILE, 4);
    add(0, 8);
    add(size, 4);
    add_bytes(text, size);
    error = ask(WRITE);
    if (!error && take(4) != size)
        return "not all was written";
    if (!error)
        print("9p put %u bytes\n", (unsigned)size);
    return error;
}

const char *p9_put(const char *path, const char *text)
{
    const char *name = NULL;
    size_t length;
    const char *error = walk(path, &name, &length);
    return error ? error : done(fill(name, length, text));
}

const char *p9_remove(const char *path)
{
    const char *error = walk(path, NULL, NULL);
    if (error)
        return error;
    start();
    add(FILE, 4);
    error = ask(REMOVE); /* gives the fid back, whatever comes of it */
    if (!error)
        print("9p removed\n");
    return error;
}

static const char *stat(void)
{
    start();
    add(FILE, 4);
    add(GETATTR_BASIC, 8);
    const char *error = ask(GETATTR);
    if (error)
        return error;
    take_bytes(8 + 13); /* what is valid, the qid */
    unsigned mode = (unsigned)take(4), uid = (unsigned)take(4), gid = (unsigned)take(4);
    uint64_t links = take(8);
    take(8); /* a device node's number */
    uint64_t size = take(8);
    take_bytes(4 * 8); /* block size, blocks, time of the last access */
    uint64_t seconds = take(8);
    if (cut)
        return whole();
    print("9p %c mode ", "?pc?d?b?-?l?s???"[mode >> 12 & 15]);
    for (unsigned shift = 12; shift; shift -= 3)
        print("%u", mode >> (shift - 3) & 7);
    print(" uid %u gid %u links %llu size %llu mtime %llu\n", uid, gid, (unsigned long long)links, (unsigned long long)size,
          (unsigned long long)seconds);
    return NULL;
}

const char *p9_stat(const char *path)
{
    const char *error = walk(path, NULL, NULL);
    return error ? error : done(stat());
}

const char *p9_umount(void)
{
    if (!present)
        return attach();
    const char *error = attached ? clunk(ROOT) : NULL;
    attached = false;
    return error;
}
