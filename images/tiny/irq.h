/* Interrupt sources and their counts. */
#pragma once

#include <stdint.h>

typedef void irq_handler(void *context);

/* `name` is what the command `irq` shows; the handler runs with interrupts off. */
void irq_register(unsigned irq, const char *name, irq_handler *handler, void *context);

/* Prints name=count, a line for each source. */
void irq_report(void);
