"""The embedded task: questions about pictures of handwritten digits."""
