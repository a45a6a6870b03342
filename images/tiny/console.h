/* The serial console, on one of the UARTs of uart.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "board.h"

/* Output works from here on. */
void console_init(const struct board *board);

/* Input works from here on; needs the interrupt controller. */
void console_start(const struct board *board);

/* %s %c %u %x %llu %llx, with a width and zero padding; a newline goes out as carriage return and newline. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reads a line with echo, backspace and ^U; what does not fit is not taken. */
void console_read_line(char *line, size_t size);

/* True once ^C came since the line was read; ^C also throws away what was typed ahead. */
bool console_cancelled(void);
