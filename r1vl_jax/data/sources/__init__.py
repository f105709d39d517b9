"""Data sets as people hold them: files found and read, layouts recognised, cells understood, splits prepared."""
