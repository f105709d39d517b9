"""Where arrays live: mesh, rules, batches."""
