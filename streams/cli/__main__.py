"""`python -m streams.cli`: the command `cauce`, where it is not on the PATH."""

from streams.cli import main

main()
