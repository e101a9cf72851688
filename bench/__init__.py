"""What the path of a message costs without a model, beside peers that do the same job in the same run; `make bench`."""
