"""What the exit code of a run, and of each of its ranks and launchers, means; 0 is complete."""

FAILED = 1
REFUSED = 2
"""What the user can mend."""
PREEMPTED = 75
"""It was told to stop, and saved."""
SIGNALLED = 128
"""To which the number of a signal is added that ended the run."""
INTERRUPTED = 130
"""By Ctrl-C: by signal 2."""
