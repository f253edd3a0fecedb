"""The command line: a thin layer over functions that take typed values."""
