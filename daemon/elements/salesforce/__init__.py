"""Salesforce; `element` is what the registry knows."""
