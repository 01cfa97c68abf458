"""One call of a handler: its parameters read from a request, its result turned into a response."""
