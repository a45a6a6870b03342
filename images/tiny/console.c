#include "console.h"

#include <stdarg.h>

#include "arch.h"
#include "irq.h"
#include "uart.h"

enum { CTRL_C = 0x03, BACKSPACE = 0x08, CTRL_U = 0x15, DELETE = 0x7F };

#define INPUT_SIZE 256 /* typed ahead; a power of two */

static const struct uart *uart;
static char input[INPUT_SIZE];
static volatile unsigned input_head, input_tail; /* free-running; the handler moves the head, the reader the tail */
static volatile bool cancelled;

void console_init(const struct board *board)
{
    uart = board->uart;
    uart->init(board);
}

static void receive(void *context)
{
    (void)context;
    while (uart->readable()) {
        if (input_head - input_tail == INPUT_SIZE) {
            uart->listen(false); /* nothing is lost: the sender waits until the reader has taken something */
            return;
        }
        char c = uart->read();
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
    uart->listen(true);
}

static void put(char c) { uart->write(c); }

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
        uart->listen(true);
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
