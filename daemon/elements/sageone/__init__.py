"""Sage Business Cloud Accounting; `element` is what the registry knows."""
