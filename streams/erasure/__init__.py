"""One person goes, down to the bytes."""
