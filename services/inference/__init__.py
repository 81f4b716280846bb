"""The inference service: deployments, and the workers that serve them.

`python -m services.inference` owns deployments (what should be served): Create, Get, List, Update, Delete, Rollback and
WatchDeployment. Publishes inference.deployment.changed; follows registry.alias.moved, and the workers' reports.

`python -m services.inference worker` serves predictions by the Open Inference Protocol and holds no database: serving/
has the path of a request, from its bytes to ONNX Runtime and back.
"""
