"""The embedded task of R1-Router: handwritten numbers whose questions need facts that the picture lacks."""
