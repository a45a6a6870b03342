#include "uart.h"

#include "arch.h"
#include "board.h"

enum { DR = 0x00, FR = 0x18, IBRD = 0x24, FBRD = 0x28, LCR_H = 0x2C, CR = 0x30, IMSC = 0x38, ICR = 0x44 }; /* table 3-1 */
enum { FR_RXFE = 0x10, FR_TXFF = 0x20, LCR_FIFOS = 0x10, LCR_8 = 0x60, CR_ENABLE = 0x301, INT_RX = 0x10, INT_RT = 0x40 };
enum { ALL_INTERRUPTS = 0x7FF };

static uintptr_t base;

static volatile uint32_t *reg(unsigned offset) { return (volatile uint32_t *)(base + offset); }

static void init(const struct board *board)
{
    base = board->uart_base;
    *reg(CR) = 0;
    *reg(IMSC) = 0;
    *reg(ICR) = ALL_INTERRUPTS;
    *reg(IBRD) = 13; /* 115200 baud of 24 MHz */
    *reg(FBRD) = 1;
    *reg(LCR_H) = LCR_8 | LCR_FIFOS;
    *reg(CR) = CR_ENABLE;
}

static void listen(bool on) { *reg(IMSC) = on ? INT_RX | INT_RT : 0; }

static bool readable(void) { return !(*reg(FR) & FR_RXFE); }

static char read(void) { return (char)*reg(DR); }

static void write(char c)
{
    while (*reg(FR) & FR_TXFF)
        ;
    *reg(DR) = (uint8_t)c;
}

const struct uart pl011 = { init, listen, readable, read, write };
