"""Exit codes of all commands. A signal's number plus 128 is added by whoever handles the signal."""

EXIT_OK = 0
"""Everything asked for was done."""
EXIT_SOME_FAILED = 1
"""Some case failed; all others were done, and the log names each failure."""
EXIT_USAGE = 2
"""Wrong usage, nothing found, or an output that cannot be written: said before any work."""
