"""What became of one message, told from all that Redis still has of it."""
