"""HubSpot; `element` is what the registry knows."""
