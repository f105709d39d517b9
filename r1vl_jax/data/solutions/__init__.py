"""Worked solutions: the expressions in them, what they state, and its equivalent spellings."""
