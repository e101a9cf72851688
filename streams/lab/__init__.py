"""Asking again: what was said, read from the log and answered anew, where nothing of it can reach anybody."""
