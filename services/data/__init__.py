"""The data service: datasets, their immutable encrypted versions, schemas, profiles and recipes.

RPCs: ImportDataset, TransformDataset, ReadDataset, PreviewDataset, GetDatasetProfile; Get, List and Delete of datasets
and versions. Publishes data.version.created and data.version.deleted; follows nothing.
"""
