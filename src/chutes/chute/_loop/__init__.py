"""The event loop and threads that run the author's code, and the transfer of results to the server's event loop."""
