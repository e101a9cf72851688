"""What the commands of `cauce` do at a terminal; streams/cli says how they are called."""
