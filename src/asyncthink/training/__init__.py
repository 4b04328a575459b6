"""How models learn to organise."""
