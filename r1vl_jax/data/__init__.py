"""From records to the arrays of a batch."""
