"""The fork-join runtime."""
