"""The machine: engine, RAM, clock, loop, run states, block layer, monitors. Knows no board and no concrete device."""
