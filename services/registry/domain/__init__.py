"""The model of the registry: versions and their states, the parity gate, aliases."""
