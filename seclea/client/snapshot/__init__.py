"""What a client does before a call returns: the state of a table or a model at that moment, in a file of its own."""
