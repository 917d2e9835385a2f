"""A simulated HubSpot; `server` is what runs."""
