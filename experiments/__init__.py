"""Runnable jobs: one file is one job, and its docstring is how to run it."""

import signal
import sys

# `python -m experiments.NAME` imports this first, and then libraries for seconds, which
# Ctrl-C ends quietly; from then on `nemojax.cli.command` hears it.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is (
    signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
