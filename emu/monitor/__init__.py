"""Who commands a machine from outside: one registry of commands, spoken as HMP by people and as QMP by programs."""
