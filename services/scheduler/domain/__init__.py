"""Rules of placement and leases: no transport, no database, no clock."""
