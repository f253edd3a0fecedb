"""What the host is, as plain data. Nothing else in the program reads the host."""
