"""The one place the version is written."""

version = "0.1.0"
