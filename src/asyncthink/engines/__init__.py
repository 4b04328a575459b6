"""What decodes: engines and their checkpoints."""
