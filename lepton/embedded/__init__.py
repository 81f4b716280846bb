"""The embedded platform: all of Lepton on one machine, under one supervisor, with no Docker and no root.

home: where everything lies; credentials: CA, certificates, keys and tokens; processes: what runs, with which
environment; health: who answers; supervisor: starts, watches, restarts and stops it. Needs `lepton[platform]`; the SDK
imports home and processes alone.
"""
