"""HTTP for `imagegen`: request bodies, base64 images and responses. Only this package knows status codes."""
