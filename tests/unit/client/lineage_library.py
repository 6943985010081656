"""Functions of a user's own module, for tests of what is found out about functions."""

FACTOR = 2


def helper(value):
    return value * FACTOR


def with_helper(df):
    return helper(df)
