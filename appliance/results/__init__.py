"""Results of benchmarks and evaluations: one kind of document, written, read and compared."""
