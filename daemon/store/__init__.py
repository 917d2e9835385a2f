"""PostgreSQL: all SQL of tidings is in this package, as constants above the functions that run them.

database     connections, the pool, what counts as an outage, the schema
embedded     the PostgreSQL that comes along when no server is configured
log          append to the log, read it, never change it
projections  every other table but the vault, folded from the log: live and in `rebuild`
writer       the one connection that appends, in groups
vault        sealed credentials
directory    the instances in memory, as the log has them
accounts     organizations, users, who a request is from
objects      known objects, cursors, poll states
deliveries   callbacks and what became of each notification
"""
