"""R1-Router: reasoning that decides when and where to look things up. See docs/router.md."""
