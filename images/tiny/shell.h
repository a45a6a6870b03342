/* The commands. */
#pragma once

#include "board.h"

/* `boots` counts starts since power was switched on. */
_Noreturn void shell(const struct board *board, uint64_t boots);
