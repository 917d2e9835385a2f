"""A simulated Salesforce; `server` is what runs."""
