"""The HTTP edge of `imagegen`: request bodies, base64 images, and answers. Only this package knows status codes."""
