"""Dropbox; `element` is what the registry knows."""
