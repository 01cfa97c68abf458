"""Container images for chutes, one module each."""
