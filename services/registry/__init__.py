"""The registry service: models, versions, aliases and their history, signatures, lineage, artifacts.

RPCs: CreateVersion, UploadArtifact, FinalizeVersion, DownloadArtifact; Get, List and Delete of models, versions and
aliases; PromoteVersion, RollbackAlias, ListAliasHistory. Publishes registry.version.ready and registry.alias.moved;
follows nothing.
"""
