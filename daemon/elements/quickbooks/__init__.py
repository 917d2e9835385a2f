"""QuickBooks Online; `element` is what the registry knows."""
