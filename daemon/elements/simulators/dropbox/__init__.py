"""A simulated Dropbox; `server` is what runs."""
