/* Guest time, and the one timer. It is off unless a command needs it: an idle guest sleeps. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

void timer_init(uint64_t hz);

uint64_t timer_ms(void);
uint64_t timer_ns(void);

/* Interrupts every `period_ms` from now on, until timer_stop. */
void timer_every(uint64_t period_ms);

/* Interrupts once, `ms` from now. */
void timer_once(uint64_t ms);
void timer_stop(void);

/* How often the timer fired since it was last started. */
uint64_t timer_fired(void);

/* How often it fired since boot. */
uint64_t timer_count(void);
