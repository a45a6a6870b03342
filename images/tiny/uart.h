/* What the console needs of a UART. Transmitting is by polling, receiving by interrupt. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct board;

struct uart {
    void (*init)(const struct board *board); /* output works from here on */
    void (*listen)(bool on);                 /* interrupt while there is input */
    bool (*readable)(void);
    char (*read)(void);
    void (*write)(char c); /* waits for room */
};

extern const struct uart ns16550; /* National Semiconductor PC16550D */
extern const struct uart pl011;   /* ARM DDI 0183 */
