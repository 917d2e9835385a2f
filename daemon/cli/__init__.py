"""The command line `tidings`: the only package that prints or exits.

    program     the command and its verbs; `main`
    app         what every verb works with: configuration, database, signals, output
    outcome     exit codes, and what to say of each error
    display     entries     tables and lines for people, JSON for scripts
    run  check  users  elements  instances  log  replay  alerts  rebuild  vault      one file per verb
    receiver    listen      a receiver that verifies
    simulate    a provider to play with
    demo/       all of it at once, live

What is shown goes to standard output, everything else to standard error.
"""

from daemon.cli.program import main

__all__ = ["main"]
