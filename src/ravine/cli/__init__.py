"""The command line: `ravine solve burgers --budget 60s`.

Results go to stdout, progress and messages to stderr. Exit codes: 0 for a run, whatever the numerical reason it stopped
for; 2 for input that cannot be used, with one message and no traceback; 3 when a process of a run over several is gone;
1 for an error that nobody expected, with its traceback.

JAX is imported inside the commands, so that help appears at once and threads, precision and cache are set first.
"""

from ravine.cli.commands import main

__all__ = ["main"]
