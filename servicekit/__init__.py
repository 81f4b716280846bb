"""What every service process needs: settings, errors, rpc, server, auth, telemetry, events, objects, database.

Imports no service.
"""
