"""The routes of a chute: its cords in FastAPI's router, and what the OpenAPI document says about them."""
