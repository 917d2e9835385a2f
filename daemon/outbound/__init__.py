"""HTTP to the world: `client` reads from providers, `sender` delivers to callbacks, `addresses` says where to."""
