#include "console.h"

#include <stdarg.h>

#include "arch.h"
#include "irq.h"

enum { RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5 }; /* 8.0, table II */
enum { IER_ERBFI = 0x01, FCR_ENABLE = 0x01, IIR_FIFOS = 0xC0, LCR_8N1 = 0x03, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT2 = 0x08, LSR_DR = 0x01, LSR_THRE = 0x20 };
enum { CTRL_C = 0x03, BACKSPACE = 0x08, CTRL_U = 0x15, DELETE = 0x7F };

#define FIFO_DEPTH 16
#define INPUT_SIZE 256 /* typed ahead; a power of two */

static uintptr_t uart;
static unsigned shift, fifo_depth, room;
static char input[INPUT_SIZE];
static volatile unsigned input_head, input_tail; /* free-running; the handler moves the head, the reader the tail */
static volatile bool cancelled;

static uint8_t get(unsigned reg) { return arch_read8(uart + ((uintptr_t)reg << shift)); }

static void set(unsigned reg, uint8_t value) { arch_write8(uart + ((uintptr_t)reg << shift), value); }

void console_init(const struct board *board)
{
    uart = board->uart;
    shift = board->uart_shift;
    set(IER, 0);
    set(LCR, LCR_8N1 | LCR_DLAB);
    set(DLL, 1); /* 115200 baud of the PC's 1.8432 MHz */
    set(DLM, 0);
    set(LCR, LCR_8N1);
    set(FCR, FCR_ENABLE);
    set(MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
    fifo_depth = (get(IIR) & IIR_FIFOS) == IIR_FIFOS ? FIFO_DEPTH : 1;
}

static void receive(void *context)
{
    (void)context;
    while (get(LSR) & LSR_DR) {
        if (input_head - input_tail == INPUT_SIZE) {
            set(IER, 0); /* nothing is lost: the sender waits until the reader has taken something */
            return;
        }
        char c = (char)get(RBR);
        if (c == CTRL_C) {
            cancelled = true;
            input_tail = input_head;
        } else {
            input[input_head++ % INPUT_SIZE] = c;
        }
    }
}

void console_start(const struct board *board)
{
    irq_register(board->uart_irq, "uart", receive, NULL);
    set(IER, IER_ERBFI);
}

static void put(char c)
{
    if (!room) {
        while (!(get(LSR) & LSR_THRE))
            ;
        room = fifo_depth; /* THRE says that the whole FIFO is empty */
    }
    set(THR, (uint8_t)c);
    room--;
}

static void put_number(unsigned long long value, unsigned base, unsigned width, char pad)
{
    char digits[20]; /* of 2^64 - 1 */
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (; width > count; width--)
        put(pad);
    while (count)
        put(digits[--count]);
}

void print(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    for (const char *at = format; *at; at++) {
        if (*at != '%') {
            if (*at == '\n')
                put('\r');
            put(*at);
            continue;
        }
        char pad = at[1] == '0' ? '0' : ' ';
        unsigned width = 0;
        while (at[1] >= '0' && at[1] <= '9')
            width = width * 10 + (unsigned)(*++at - '0');
        bool wide = at[1] == 'l';
        while (at[1] == 'l')
            at++;
        switch (*++at) {
        case 's':
            for (const char *text = va_arg(arguments, const char *); *text; text++)
                put(*text);
            break;
        case 'c':
            put((char)va_arg(arguments, int));
            break;
        default: /* u, x; the compiler checks formats */
            put_number(wide ? va_arg(arguments, unsigned long long) : va_arg(arguments, unsigned), *at == 'x' ? 16 : 10, width,
                       pad);
        }
    }
    va_end(arguments);
}

static char read_char(void)
{
    arch_irq_off();
    while (input_head == input_tail)
        arch_irq_wait();
    char c = input[input_tail % INPUT_SIZE];
    if (input_head - input_tail++ == INPUT_SIZE)
        set(IER, IER_ERBFI);
    arch_irq_on();
    return c;
}

void console_read_line(char *line, size_t size)
{
    static bool after_return;
    size_t length = 0;
    for (;;) {
        char c = read_char();
        bool ends_return = c == '\n' && after_return; /* the second half of a CR LF */
        after_return = c == '\r';
        if (ends_return)
            continue;
        if (c == '\r' || c == '\n')
            break;
        size_t erase = c == CTRL_U ? length : (c == BACKSPACE || c == DELETE) && length ? 1 : 0;
        for (length -= erase; erase; erase--)
            print("\b \b");
        if (c >= ' ' && c < DELETE && length + 1 < size) {
            line[length++] = c;
            put(c);
        }
    }
    line[length] = '\0';
    print("\n");
    cancelled = false;
}

bool console_cancelled(void) { return cancelled; }
