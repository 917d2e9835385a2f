"""`python -m daemon` is `tidings`."""

from daemon.cli import main

main()
