#include "timer.h"

#include "arch.h"

static uint64_t hz, deadline, period;
static volatile uint64_t fired, count;

void timer_init(uint64_t timer_hz)
{
    hz = timer_hz;
    arch_timer_set(ARCH_NEVER);
}

static uint64_t time_in(uint64_t units_per_second)
{
    uint64_t ticks = arch_time();
    return ticks / hz * units_per_second + ticks % hz * units_per_second / hz; /* in two parts: a product would overflow */
}

uint64_t timer_ms(void) { return time_in(1000); }

uint64_t timer_ns(void) { return time_in(1000000000); }

static void start(uint64_t first_ticks, uint64_t period_ticks)
{
    arch_irq_off();
    fired = 0;
    period = period_ticks;
    deadline = arch_time() + first_ticks;
    arch_timer_set(deadline);
    arch_irq_on();
}

void timer_every(uint64_t period_ms) { start(period_ms * hz / 1000, period_ms * hz / 1000); }

void timer_once(uint64_t ms) { start(ms * hz / 1000, 0); }

void timer_stop(void) { arch_timer_set(ARCH_NEVER); }

uint64_t timer_fired(void) { return fired; }

uint64_t timer_count(void) { return count; }

void timer_interrupt(void)
{
    fired++;
    count++;
    deadline += period; /* from the deadline, not from now: a late interrupt does not move the next */
    arch_timer_set(period ? deadline : ARCH_NEVER);
}
