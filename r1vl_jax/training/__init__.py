"""A run on the host: inputs, components, the loop and the stages."""
