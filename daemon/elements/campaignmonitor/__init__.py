"""Campaign Monitor; `element` is what the registry knows."""
