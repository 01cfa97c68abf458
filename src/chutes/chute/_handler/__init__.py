"""The call of a handler: read its parameters from a request, and turn its result into a response."""
