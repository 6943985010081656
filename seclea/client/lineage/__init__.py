"""How a dataset came to be: the chain of a user's transformations, run again, compared and described."""
