"""The command line: `emu run, ls, pull, ctl, demo, images, analyze`, and the terminal a guest's console lives in."""
