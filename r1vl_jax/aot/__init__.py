"""Compiling every program of a run for devices that are not there, to know what each needs and what it waits for."""
