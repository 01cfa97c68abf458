"""Scenes and captions: the names of the drawings, the words around them, and the tokenizer of both text encoders."""
