"""Training on a Ray cluster: networks by Ray Train, a study's trials by Ray Tune.

Ray is optional (`pip install lepton[ray]`): only jobs of a worker whose engine is ray import what is in here.
"""
