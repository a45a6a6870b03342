#include "irq.h"

#include "arch.h"
#include "board.h"
#include "console.h"
#include "timer.h"

static struct {
    unsigned irq;
    const char *name;
    irq_handler *handler;
    void *context;
    volatile uint64_t count;
} sources[MAX_VIRTIO_SLOTS + 1]; /* and the console */

static unsigned source_count;
static volatile uint64_t spurious;

void irq_register(unsigned irq, const char *name, irq_handler *handler, void *context)
{
    unsigned at = source_count++;
    sources[at].irq = irq;
    sources[at].name = name;
    sources[at].handler = handler;
    sources[at].context = context;
    arch_irq_unmask(irq);
}

void irq_dispatch(unsigned irq)
{
    for (unsigned at = 0; at < source_count; at++)
        if (sources[at].irq == irq) {
            sources[at].count++;
            sources[at].handler(sources[at].context);
            return;
        }
    spurious++;
}

void irq_report(void)
{
    print("timer=%llu\n", (unsigned long long)timer_count());
    for (unsigned at = 0; at < source_count; at++)
        print("%s=%llu\n", sources[at].name, (unsigned long long)sources[at].count);
    print("spurious=%llu\n", (unsigned long long)spurious);
}
