"""The host process: command line, several processes, compilation cache, libtpu."""
