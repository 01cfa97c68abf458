"""The event loop and the threads that run the author's code, and how results cross to the server's event loop."""
