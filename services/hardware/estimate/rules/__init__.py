"""What a spec must not ask for, by theme.

Each rule yields what is wrong: the field, its value, and what it may be instead. Libraries accept most of
these without a word and train something else than what was meant, or fail when memory is already taken.
"""
