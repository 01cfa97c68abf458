"""The routes of a chute: its cords in FastAPI's router, and their OpenAPI documentation."""
