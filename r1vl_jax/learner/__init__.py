"""Device programs of an update: log-probs, advantages, gradients, steps."""
