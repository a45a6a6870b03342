#include "uart.h"

#include "arch.h"
#include "board.h"

enum { RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5 }; /* 8.0, table II */
enum { IER_ERBFI = 0x01, FCR_ENABLE = 0x01, IIR_FIFOS = 0xC0, LCR_8N1 = 0x03, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT2 = 0x08, LSR_DR = 0x01, LSR_THRE = 0x20 };

#define FIFO_DEPTH 16

static uintptr_t base;
static unsigned shift, fifo_depth, room;

static uint8_t get(unsigned reg) { return arch_read8(base + ((uintptr_t)reg << shift)); }

static void set(unsigned reg, uint8_t value) { arch_write8(base + ((uintptr_t)reg << shift), value); }

static void init(const struct board *board)
{
    base = board->uart_base;
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

static void listen(bool on) { set(IER, on ? IER_ERBFI : 0); }

static bool readable(void) { return get(LSR) & LSR_DR; }

static char read(void) { return (char)get(RBR); }

static void write(char c)
{
    if (!room) {
        while (!(get(LSR) & LSR_THRE))
            ;
        room = fifo_depth; /* THRE says that the whole FIFO is empty */
    }
    set(THR, (uint8_t)c);
    room--;
}

const struct uart ns16550 = { init, listen, readable, read, write };
