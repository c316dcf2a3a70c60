"""What every service needs to be a good server: bootstrap, identity, errors, telemetry, the blob store.

Nothing here imports torch or another heavy library: a service answers its health check within seconds.
"""
