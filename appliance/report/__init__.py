"""Reports: results and comparisons as one page, one text or one document, to send on."""
