"""Decode the image files of request bodies to sRGB pixels; a decoded image holds nothing else of its file."""
