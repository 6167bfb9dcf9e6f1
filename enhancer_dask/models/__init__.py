"""Models on graph shards: their data loaders. Everything here needs torch and torch-geometric (extra ``gnn``)."""
