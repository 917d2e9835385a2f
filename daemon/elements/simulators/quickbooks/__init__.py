"""A simulated QuickBooks Online; `server` is what runs."""
