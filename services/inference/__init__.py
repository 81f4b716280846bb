"""The inference service: deployments, and the workers that serve them.

`python -m services.inference` owns deployments (what should be served): Create, Get, List, Update, Delete, Rollback,
PromoteCanary, AbortCanary, RecordPlan and WatchDeployment; release_controller judges canaries. Publishes
inference.deployment.changed; follows registry.alias.moved, and the workers' reports.

`python -m services.inference worker` (worker.py) serves predictions by the Open Inference Protocol, over gRPC and REST,
and by lepton.v1.PredictionService, and holds no database. serving/ has the path of a request, from its bytes to ONNX
Runtime and back; fastlane/ and rest/ bring requests there, predict/ brings rows, texts and images; plans/ looks for
the fastest way to run a model here.
"""
