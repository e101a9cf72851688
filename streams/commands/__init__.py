"""What the commands of `cauce` do at a terminal; cli.py and its neighbours say how they are called."""
