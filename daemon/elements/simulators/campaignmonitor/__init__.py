"""A simulated Campaign Monitor; `server` is what runs."""
